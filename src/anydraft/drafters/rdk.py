"""RDK: a pruned or foreign drafter also proposes tokens that it does not have, by moving part of its mass onto them.

Source:   Redistributing drafter kernels, arXiv:2506.03206
Kinds:    independent
Needs:    nothing
Cost:     TLI, and O(V) per drafted token while the mixing weight is above 0; weight 0 costs nothing
Differs:  linear-time forms of our own (see vocabulary/redistribution.py), mixed into TLI's law with a weight that is tuned per request and is 0 where
          redistribution does not help; without statistics the target's mean law is learnt from the request itself
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anydraft.core.errors import BadOption
from anydraft.core.law import Law
from anydraft.core.records import Context, Draft, Request, Size, Step
from anydraft.core.roles import Model, Noise
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.redistribution import FORMS, MixingWeight, Mixture, redistribution
from anydraft.vocabulary.shared_chain import SharedChain
from anydraft.vocabulary.statistics import kept_tokens, mean_law

ENOUGH = 16  # laws seen before a mean law that was learnt on the way is used


class RDK:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    statistics: the target's mean law: a file that `anydraft calibrate` wrote, or f[V]; None: learnt per request.
    keep_share: share of the common tokens that stays in the drafter's head; below 1 it needs statistics.
    redistribution_form: prior, first_order or dense (a reference for small vocabularies).
    mixing_weight: in [0, 1], or None to tune it on the judged positions of each request.
    tau: temperature of the kernel, for first_order and dense.
    """

    kinds = ("independent",)
    chain = True

    def __init__(
        self,
        model: Model,
        aligner: Aligner,
        vocab_size: int,
        statistics: Any = None,
        keep_share: float = 1.0,
        redistribution_form: str = "prior",
        mixing_weight: float | None = None,
        tau: float = 0.1,
    ):
        if mixing_weight is not None and not 0 <= mixing_weight <= 1:
            raise BadOption("mixing_weight is not usable", got=mixing_weight, expected="a number from 0 to 1, or None to tune it")
        if redistribution_form not in FORMS:
            raise BadOption("there is no such form of redistribution", got=redistribution_form, expected="one of " + ", ".join(FORMS))
        both = aligner.intersection
        needed = keep_share < 1
        self.mean = mean_law(statistics, both.target, "rdk with keep_share < 1") if statistics is not None or needed else None
        self.shared = SharedChain(model, aligner, vocab_size, kept_tokens(both, self.mean, keep_share) if needed and self.mean is not None else None)
        self.form, self.tau, self.fixed = redistribution_form, tau, mixing_weight
        self.missing = torch.ones(vocab_size, dtype=torch.bool)
        self.missing[self.shared.target_ids] = False
        self._rows: dict[int, _Row] = {}
        self._proposed: Draft | None = None

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return self.shared.model.forwards

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        rows = [self._row(slot, request) for slot, request in zip(context.slot.tolist(), context.requests)]
        self._rows = {slot: self._rows[slot] for slot in context.slot.tolist()}
        weight = torch.tensor([row.weight for row in rows], dtype=torch.float64)

        def change(law: Law, requests: Sequence[Request]) -> Law:
            return Mixture(law, tuple(row.moved for row in rows), weight)

        self._proposed = self.shared.propose(context, size, noise, change)
        return self._proposed

    def keep(self, step: Step) -> None:
        """Learns from the positions that were judged: the accepted ones and the first that was not.

        A greedy target's token is in the intersection or it is not, so there is nothing to tune for such a request. What counts is what was
        proposed here, row by row: the step's draft may hold other rows' nodes of other drafters beside it.
        """
        draft, self._proposed = self._proposed, None
        levels = _mixtures(draft) if draft is not None else []
        target, drafted = functools.cache(step.scores.law.rows), functools.cache(lambda i: levels[i].inner.rows(0))  # laws of all rows: made once
        for b, (slot, request) in enumerate(zip(step.before.slot.tolist(), step.before.requests)):
            if request.temperature == 0:
                continue
            row = self._row(slot, request)
            if self.mean is None:
                row.see(target(0)[b])
            judged = min(len(step.path[b]) + 1, int(draft.live[b].sum())) if draft is not None and levels else 0
            if judged and self.fixed is None and row.ready:
                p = torch.stack([target(i)[b] for i in range(judged)])
                q = torch.stack([drafted(i)[b] for i in range(judged)])
                row.mixing.learn(p.to(q.device), q, row.moved(q))

    def _row(self, slot: int, request: Request) -> _Row:
        held = self._rows.get(slot)
        if held is None or held.request is not request:
            held = self._rows[slot] = _Row(request, self)
        return held


def _mixtures(draft: Draft) -> list[Mixture]:
    """The laws of a chain, level by level."""
    laws = [] if draft.law is None else getattr(draft.law, "laws", [draft.law])
    return [law for law in laws if isinstance(law, Mixture)]


class _Row:
    """One request: the mean law, how mass is moved, and how much."""

    def __init__(self, request: Request, owner: RDK):
        self.request, self.owner, self.mixing = request, owner, MixingWeight()
        self.sum = torch.zeros(len(owner.missing), dtype=torch.float64)
        self.seen = 0
        self.moved = self._moved(owner.mean) if owner.mean is not None else _nothing

    @property
    def ready(self) -> bool:
        return self.moved is not _nothing

    @property
    def weight(self) -> float:
        if not self.ready:
            return 0.0
        return self.mixing.weight if self.owner.fixed is None else self.owner.fixed

    def see(self, law: Tensor) -> None:
        """One law of the target f[V]."""
        self.sum += law.double().cpu()
        self.seen += 1
        if self.seen % ENOUGH == 0:
            self.moved = self._moved(self.sum / self.seen)

    def _moved(self, mean: Tensor) -> Any:
        return redistribution(self.owner.form, mean, self.owner.missing, self.owner.tau)


def _nothing(q: Tensor) -> Tensor:
    return q


__all__ = ["RDK"]
