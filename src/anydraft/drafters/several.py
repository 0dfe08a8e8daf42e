"""Several drafters side by side: each row's draft comes from the drafter that the control chose for it.

Source:   our own
Kinds:    as the drafters it is given
Needs:    as the drafters it is given
Cost:     that of each drafter that some row asks; a model among them reads a text when it is first asked
Differs:  nothing to differ from. Who drafts is settled before anything is drawn, from finished steps and the text alone, so no law changes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anydraft.core.records import Context, Draft, Request, Size, Step
from anydraft.core.roles import Drafter, Noise
from anydraft.core.tree import by_row


class Several:
    """Args:
    drafters: by name, in the order in which `Size.drafter` counts them; a size that names none means the first.
    """

    def __init__(self, drafters: Mapping[str, Drafter]):
        self.drafters = dict(drafters)
        members: list[Any] = list(self.drafters.values())
        self.kinds = tuple(dict.fromkeys(kind for d in members for kind in d.kinds))
        self.chain = all(d.chain for d in members)
        self.forwards = 0  # of all drafting models so far
        self._met: dict[str, dict[int, Request]] = {name: {} for name in self.drafters}

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        picks = torch.zeros(context.size, dtype=torch.int64) if size.drafter is None else size.drafter
        drafts, which = [], torch.zeros(context.size, dtype=torch.int64)
        for number, (name, drafter) in enumerate(self.drafters.items()):
            mine = (picks == number) & (size.depth > 0)
            if not bool(mine.any()):
                continue
            before = getattr(drafter, "forwards", 0)  # drafters may share a model, so what each adds is counted, not what each has
            self._meet(name, drafter, context, mine)
            own = {"depth": size.depth.masked_fill(~mine, 0), "nodes": size.nodes.masked_fill(~mine, 0), "drafter": None}
            draft = drafter.propose(context, dataclasses.replace(size, **own), noise)
            self.forwards += getattr(drafter, "forwards", 0) - before
            which = which.masked_fill(mine, len(drafts))
            drafts.append(dataclasses.replace(draft, proposer=(name,) if draft.source is None else draft.proposer))
        return by_row(drafts, which) if drafts else Draft.empty(context.size)

    def _meet(self, name: str, drafter: Drafter, context: Context, mine: Tensor) -> None:
        """Opens a drafter for the requests that ask it for the first time; it may never be asked, and then it reads nothing."""
        met, hear = self._met[name], getattr(drafter, "open", None)
        new = [bool(ask) and met.get(slot) is not request for ask, slot, request in zip(mine, context.slot.tolist(), context.requests)]
        if hear is not None and any(new):
            hear(dataclasses.replace(context, step=torch.where(torch.tensor(new), 0, context.step.clamp_min(1))))
        met.update((slot, request) for slot, request, first in zip(context.slot.tolist(), context.requests, new) if first)

    def keep(self, step: Step) -> None:
        """Passes the step on: a drafter may learn from what others drafted."""
        for drafter in self.drafters.values():
            hear = getattr(drafter, "keep", None)
            if hear is not None:
                hear(step)


__all__ = ["Several"]
