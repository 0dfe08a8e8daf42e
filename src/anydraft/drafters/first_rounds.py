"""First rounds: try each of several drafters for a few steps of a request, then keep the one whose drafts were accepted best.

Source:   our own; the candidates for another vocabulary are those of Timor et al. 2025, arXiv:2502.05202
Kinds:    as the drafters it is given
Needs:    as the drafters it is given
Cost:     as the drafter in turn
Differs:  nothing to differ from. The choice is each request's own and looks at finished steps only, so it changes no law and no neighbour
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from anydraft.core.records import Context, Draft, Size, Step
from anydraft.core.roles import Drafter, Noise
from anydraft.core.tree import by_row


class FirstRounds:
    """Args:
    drafters: by name, tried in this order.
    rounds: steps that each is tried for.
    """

    def __init__(self, drafters: Mapping[str, Drafter], rounds: int = 6):
        self.drafters, self.rounds = dict(drafters), rounds
        members: list[Any] = list(self.drafters.values())
        self.kinds = tuple(dict.fromkeys(kind for d in members for kind in d.kinds))
        self.chain = len(members) == 1 and members[0].chain
        self._tried: dict[int, dict[str, list[int]]] = {}

    @property
    def forwards(self) -> int:
        """Forwards of all drafting models so far; drafters that share a model count it once each."""
        return max((getattr(d, "forwards", 0) for d in self.drafters.values()), default=0)

    def open(self, context: Context) -> None:
        """New requests start their trial; the drafters that want to prepare do."""
        for slot, step in zip(context.slot.tolist(), context.step.tolist()):
            if step == 0:
                self._tried[slot] = {name: [] for name in self.drafters}
        for drafter in self.drafters.values():
            hear = getattr(drafter, "open", None)
            if hear is not None:
                hear(context)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        picks = [self._pick(slot) for slot in context.slot.tolist()]
        drafts, which = [], torch.zeros(context.size, dtype=torch.int64)
        for name, drafter in self.drafters.items():
            mine = torch.tensor([pick == name for pick in picks])
            if bool((mine & (size.depth > 0)).any()):
                wish = dataclasses.replace(size, depth=size.depth.masked_fill(~mine, 0), nodes=size.nodes.masked_fill(~mine, 0))
                draft = drafter.propose(context, wish, noise)
                which = which.masked_fill(mine, len(drafts))
                drafts.append(dataclasses.replace(draft, proposer=(name,) if draft.source is None else draft.proposer))
        return by_row(drafts, which) if drafts else Draft.empty(context.size)

    def keep(self, step: Step) -> None:
        """Counts accepted tokens of trial steps, and passes the step on."""
        drafted = step.draft.live.any(1).tolist() if step.draft.nodes else [False] * step.before.size
        for slot, path, did in zip(step.before.slot.tolist(), step.path, drafted):
            if did:
                self._tried[slot][self._pick(slot)].append(len(path))
        for drafter in self.drafters.values():
            hear = getattr(drafter, "keep", None)
            if hear is not None:
                hear(step)

    def reason(self, slot: int) -> tuple[str, str]:
        """(the request's drafter, why)."""
        tried = self._tried.get(slot, {})
        means = [f"{name} {sum(counts[: self.rounds]) / len(counts[: self.rounds]):.2f}" for name, counts in tried.items() if counts]
        return self._pick(slot), "accepted tokens per step in the first rounds: " + (", ".join(means) or "none yet")

    def _pick(self, slot: int) -> str:
        tried = self._tried.setdefault(slot, {name: [] for name in self.drafters})
        for name, counts in tried.items():
            if len(counts) < self.rounds:
                return name
        return max(tried, key=lambda name: sum(tried[name][: self.rounds]))


__all__ = ["FirstRounds"]
