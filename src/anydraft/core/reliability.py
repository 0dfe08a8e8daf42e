"""How often a draft token is accepted, given how sure its drafter was: learned as one goes, in a few bins.

The bins stand on the log-odds of the drafter's probability, where models differ most smoothly. Each starts as if it had seen `weight`
tokens accepted as often as the drafter's own probability says, so an honest drafter is believed at once and a boaster only briefly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anydraft.core.records import Draft, Level, Step

EDGES = (-3.0, -1.5, -0.5, 0.5, 1.5, 3.0, 5.0)  # log-odds between bins
CENTRES = (-4.0, -2.2, -1.0, 0.0, 1.0, 2.2, 4.0, 6.0)


class Reliability:
    """Acceptance by the drafter's probability, for one request.

    Args:
        weight: strength of the prior, in tokens.
    """

    def __init__(self, weight: float = 3.0):
        prior = [1 / (1 + math.exp(-c)) for c in CENTRES]
        self.accepted = [weight * p for p in prior]
        self.seen = [weight] * len(CENTRES)
        self._edges = torch.tensor(EDGES)

    def bins(self, prob: Tensor) -> Tensor:
        """i64, the shape of prob."""
        odds = torch.logit(prob.detach().float().cpu(), eps=1e-6)
        return torch.bucketize(odds, self._edges)

    def rates(self) -> list[float]:
        """Estimated acceptance of each bin."""
        return [a / n for a, n in zip(self.accepted, self.seen)]

    def shares(self) -> list[float]:
        """How often tokens fall into each bin, the prior counted evenly."""
        total = sum(self.seen)
        return [n / total for n in self.seen]

    def learn(self, bins: Sequence[int], accepted: int) -> None:
        """Of the tokens in these bins the first `accepted` stood and the next, if there is one, was refused; the rest were never judged."""
        for place, found in enumerate(bins[: accepted + 1]):
            self.seen[found] += 1
            self.accepted[found] += place < accepted

    def faded(self, most: float = 20.0) -> Reliability:
        """A copy in which no bin weighs more than `most` tokens: what was learned, open to a new text."""
        made = Reliability()
        keep = [min(1.0, most / n) for n in self.seen]
        made.seen = [n * k for n, k in zip(self.seen, keep)]
        made.accepted = [a * k for a, k in zip(self.accepted, keep)]
        return made

    def export(self) -> dict[str, Any]:
        """Plain types."""
        return {"accepted": list(self.accepted), "seen": list(self.seen)}

    @classmethod
    def adopted(cls, held: dict[str, Any]) -> Reliability:
        """The reverse of `export`."""
        made = cls()
        made.accepted, made.seen = list(map(float, held["accepted"])), list(map(float, held["seen"]))
        return made


def chained(draft: Draft, b: int) -> bool:
    """Whether row b's own nodes are a chain, whatever other rows have beside them."""
    place = torch.arange(draft.nodes, device=draft.parent.device)
    return draft.chain or bool(((draft.parent[b] == place - 1) | ~draft.live[b]).all())


def watched(levels: Sequence[Level], step: Step, b: int) -> list[int]:
    """Places in `levels` of row b's draft tokens that the control was asked about; [] where levels and nodes do not correspond.

    A control is not asked about the last token of a full draft, so the list may be one shorter than the draft.
    """
    if not step.draft.nodes or not chained(step.draft, b):
        return []
    places = [i for i, level in enumerate(levels) if bool(level.live[b])]
    drafted = int(step.draft.live[b].sum())
    return places if len(places) in (drafted, drafted - 1) else []
