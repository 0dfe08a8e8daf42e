"""How often a draft token is accepted, given how sure its drafter was: learned as one goes, in a few bins.

The bins stand on the log-odds of the drafter's probability, where models differ most smoothly. Each starts as if it had seen `weight`
tokens accepted as often as the drafter's own probability says, so an honest drafter is believed at once and a boaster only briefly. Bins learn slowly,
each from its own tokens; what is true of all of them, that the text has become easier or that this drafter is too modest (a greedy target agrees with it
more often than it dares to hope), is learned fast, as one number.
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
PACE, KEPT = 0.3, 0.98
"""Of the drift, per judged token: log-odds for a full surprise, and what is left of the past."""


class Reliability:
    """Acceptance by the drafter's probability, for one request.

    Args:
        weight: strength of the prior, in tokens.
    """

    def __init__(self, weight: float = 3.0):
        prior = [1 / (1 + math.exp(-c)) for c in CENTRES]
        self.accepted = [weight * p for p in prior]
        self.seen = [weight] * len(CENTRES)
        self.drift = 0.0  # log-odds by which the text is easier just now than the counts say
        self._edges = torch.tensor(EDGES)

    def bins(self, prob: Tensor) -> Tensor:
        """i64, the shape of prob."""
        odds = torch.logit(prob.detach().float().cpu(), eps=1e-6)
        return torch.bucketize(odds, self._edges)

    def rates(self) -> list[float]:
        """Estimated acceptance of each bin."""
        return [self._rate(place) for place in range(len(CENTRES))]

    def _rate(self, place: int) -> float:
        share = min(max(self.accepted[place] / self.seen[place], 0.01), 0.99)
        return 1 / (1 + (1 - share) / share * math.exp(-self.drift))

    def shares(self) -> list[float]:
        """How often tokens fall into each bin, the prior counted evenly."""
        total = sum(self.seen)
        return [n / total for n in self.seen]

    def learn(self, bins: Sequence[int], accepted: int) -> None:
        """Of the tokens in these bins the first `accepted` stood and the next, if there is one, was refused; the rest were never judged."""
        for place, found in enumerate(bins[: accepted + 1]):
            missed = (place < accepted) - self._rate(found)
            self.seen[found] += 1
            self.accepted[found] += place < accepted
            self.drift = KEPT * self.drift + PACE * missed

    def faded(self, most: float = 6.0) -> Reliability:
        """A copy in which no bin weighs more than `most` tokens: what was learned, open to a new text."""
        made = Reliability()
        keep = [min(1.0, most / n) for n in self.seen]
        made.seen = [n * k for n, k in zip(self.seen, keep)]
        made.accepted = [a * k for a, k in zip(self.accepted, keep)]
        return made

    def export(self) -> dict[str, Any]:
        """Plain types."""
        return {"accepted": list(self.accepted), "seen": list(self.seen), "drift": self.drift}

    @classmethod
    def adopted(cls, held: dict[str, Any]) -> Reliability:
        """The reverse of `export`."""
        made = cls()
        made.accepted, made.seen = list(map(float, held["accepted"])), list(map(float, held["seen"]))
        made.drift = float(held.get("drift", 0.0))
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
