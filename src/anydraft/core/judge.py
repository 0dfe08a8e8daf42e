"""Judges runs of positions with a token-wise rule, one position at a time, and commits them in one go.

The noise of a decision is keyed by (seed, epoch, position, purpose, 0), never by where a block happened to begin: blocks begin where timing
puts them. Laws are made here from raw rows, so that the user's processors exist once and see decided prefixes only.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydraft.core.commit import unusable, written
from anydraft.core.law import Law, Point
from anydraft.core.ledger import Outcome
from anydraft.core.messages import Node
from anydraft.core.processors import Laws
from anydraft.core.records import Context, Draft, Scores, Seconds, Step, Verdict
from anydraft.core.roles import NoiseSource, Rule
from anydraft.core.stopping import Stopping


@dataclass(frozen=True, slots=True, eq=False)
class _From:
    """A law from one of its rows on."""

    law: Law
    first: int

    @property
    def width(self) -> int:
        return self.law.width

    def rows(self, index: Tensor | int) -> Tensor:
        return self.law.rows(index + self.first)

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        return self.law.at(index + self.first, token)

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        return self.law.draw(index + self.first, uniform, empty=empty)


class TokenJudge:
    """The judge of one request; see `Judge`.

    Args:
        context: the request's, one row.
        laws: makes the target's laws; one for all requests of a run.
        forwards: gives the forwards of each model so far; their growth is a step's cost.
    """

    def __init__(
        self, context: Context, rule: Rule, noise: NoiseSource, stopping: Stopping, laws: Laws, forwards: Callable[[], dict[str, int]] = dict
    ):
        self.context, self.rule, self.noise, self.stopping, self.laws = context, rule, noise, stopping, laws
        self.steps: list[Step] = []  # made and not yet taken by the schedule's driver
        self._lossless = header(rule, "Keeps") in ("law", "path")
        self._forwards, self._counted = forwards, forwards()
        self._mark = time.perf_counter()

    @property
    def asks(self) -> bool:
        """Whether decisions need the laws that drafts were drawn from."""
        return not (self._lossless and self.laws.certain(self.context))

    def drafts(self) -> bool:
        """Whether the request's processors allow speculation now."""
        plain = self.laws.plain(self.context)
        return plain is None or not bool(plain[0])

    @torch.no_grad()
    def decide(self, epoch: int, position: int, rows: Sequence[Tensor], nodes: Sequence[Node | None]) -> Outcome:
        """See `Judge.decide`. rows: f[V] each."""
        logits = torch.stack(list(rows))[None] if len(rows) > 1 else rows[0][None, None]
        drafted = chain([node.token for node in nodes if node is not None])
        law = self.laws.of(logits, self.context, drafted)
        if self._lossless and isinstance(law, Point):
            count, token = _certain(law.ids[0].tolist(), nodes)
        else:
            count, token = self._asked(epoch, position, law, logits, nodes)
        return self._commit(epoch, drafted, Scores(law=law, logits=logits), count, token)

    def _asked(self, epoch: int, position: int, law: Law, logits: Tensor, nodes: Sequence[Node | None]) -> tuple[int, int]:
        """(accepted drafts, the target's own token or -1), position by position."""
        for i, node in enumerate(nodes):
            place = dataclasses.replace(self.context, length=torch.tensor([position + i]), step=torch.tensor([epoch]))
            one = _NOTHING if node is None or node.draft is None else node.draft
            # a single row: the token behind an accepted draft is for that position's own decision
            verdict = self.rule.verify(one, Scores(law=_From(law, i), logits=logits[:, i : i + 1]), self.noise.at(place))
            if node is None or not int(verdict.count):
                return i, int(verdict.token)
        return len(nodes), -1

    def _commit(self, epoch: int, drafted: Draft, scores: Scores, count: int, token: int) -> Outcome:
        before = self.context
        if not bool(scores.logits.amax(-1).isfinite().all()):  # every row was asked for
            raise unusable(before)
        nodes, tokens = list(range(count)), drafted.tokens.tolist()[0][:count]
        after, emitted, finish, accepted = written(before, [(nodes, tokens + [token] if token >= 0 else tokens)], [self.stopping])
        path = torch.tensor([nodes + [-1] * (drafted.nodes - count)], dtype=torch.int64)
        verdict = Verdict(path=path, count=torch.tensor([count]), token=torch.tensor([token]))
        self.context = dataclasses.replace(after, step=torch.tensor([epoch + (token >= 0)]))
        start, n = int(before.length), int(emitted)
        now, spent = time.perf_counter(), self._forwards()
        self.steps.append(
            Step(
                before=before,
                after=self.context,
                draft=drafted,
                scores=scores,
                verdict=verdict,
                path=accepted,
                emitted=emitted,
                finish=finish,
                seconds=Seconds(verify=now - self._mark),
                forwards={name: total - self._counted.get(name, 0) for name, total in spent.items()},
            )
        )
        self._mark, self._counted = now, spent
        return Outcome(after.ids[0, start : start + n].tolist(), token >= 0, finish[0])


def _certain(said: Sequence[int], nodes: Sequence[Node | None]) -> tuple[int, int]:
    """What every lossless rule decides where the target's laws are one-hot: their tokens, and a draft is accepted where it is one. Asking it
    costs forty calls of tensors, between the end of one verification and the start of the next."""
    for count, (token, node) in enumerate(zip(said, nodes)):
        if node is None or node.token != token:
            return count, token
    return len(nodes), -1


def header(rule: Any, field: str) -> str:
    """The first word behind a field of the header of this object's module, "" without one.

    >>> from anydraft.rules.match import Match
    >>> header(Match(), "Keeps")
    'path'
    """
    text = sys.modules[type(rule).__module__].__doc__ or ""
    return next((line.split()[1] for line in text.splitlines() if line.startswith(f"{field}:") and len(line.split()) > 1), "")


def chain(tokens: Sequence[int]) -> Draft:
    """These ids as a draft of one path whose laws nobody asks for."""
    if not tokens:
        return _NOTHING
    parent, live, none = _path(len(tokens))
    ids = torch.tensor([tokens], dtype=torch.int64)
    return Draft(tokens=ids, parent=parent, live=live, kind=torch.zeros_like(parent), index=none, levels=len(tokens))


_NOTHING = Draft.empty(1)


@functools.lru_cache(maxsize=256)
def _path(nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Parents of a chain, who is live, and rows of no law; never written to, so shared by all chains of a length."""
    parent = torch.arange(nodes)[None] - 1
    return parent, torch.ones_like(parent, dtype=torch.bool), torch.full_like(parent, -1)


def single(draft: Draft, node: int) -> Draft:
    """One node of a chain as a draft of its own, with the law it was drawn from."""
    if draft.nodes == 1:
        return draft
    at = slice(node, node + 1)
    return Draft(
        tokens=draft.tokens[:, at],
        parent=torch.full_like(draft.parent[:, at], -1),
        live=draft.live[:, at],
        kind=draft.kind[:, at],
        index=draft.index[:, at],
        law=draft.law,
        levels=1,
    )
