"""The track record of one drafter in one request: how deep its tokens stood, and what its drafts brought for what they cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anydraft.core.costs import Costs, survival

CURVE = 32  # depths whose acceptance is counted
GUESS = 0.7  # acceptance of a drafter that has not been seen at work
WEIGHT = 2.0  # drafts that the guess counts for
PAST = 0.95  # weight of what was seen before, per draft


@dataclass(slots=True)
class Track:
    """Counts fade, so that a text may change."""

    stood: list[float] = field(default_factory=lambda: [1.5] * CURVE)  # of the tokens judged at each depth, as if some had stood already
    judged: list[float] = field(default_factory=lambda: [2.0] * CURVE)
    drafts: float = 0.0
    tokens: float = 0.0  # that these drafts' steps emitted
    spent: float = 0.0  # on these steps, in plain steps

    def learn(self, stood: int, drafted: int) -> None:
        """Of `drafted` tokens the first `stood` stood; those behind the first refusal were not judged."""
        for place in range(min(stood + 1, drafted, CURVE)):
            self.judged[place] = PAST * self.judged[place] + 1
            self.stood[place] = PAST * self.stood[place] + (place < stood)

    def book(self, tokens: int, spent: float) -> None:
        """One step: what it emitted, and what it cost in plain steps."""
        self.drafts = PAST * self.drafts + 1
        self.tokens = PAST * self.tokens + tokens
        self.spent = PAST * self.spent + spent

    def curve(self, most: int) -> list[float]:
        """Chance that the j-th token of a draft stands, j = 1..most."""
        chance, found = 1.0, []
        for stood, judged in zip(self.stood[:most], self.judged):
            chance *= stood / judged
            found.append(chance)
        return found

    def worth(self, costs: Costs, behind: int = 0, most: int = 16) -> float:
        """Expected tokens over expected plain steps of the next draft, for which `behind` ids must be read first."""
        tokens, spent = _guess(costs, most)
        seen = WEIGHT + self.drafts
        cost = (WEIGHT * spent + self.spent) / seen + behind * costs.read / costs.step(0)
        return (WEIGHT * tokens + self.tokens) / seen / cost

    def faded(self, most: float = 10.0) -> Track:
        """A copy of which no count weighs more than `most` drafts: what was learned, open to a new text."""
        at_depth = [min(1.0, most / n) for n in self.judged]
        keep = min(1.0, most / self.drafts) if self.drafts else 1.0
        stood, judged = ([n * k for n, k in zip(held, at_depth)] for held in (self.stood, self.judged))
        return Track(stood, judged, self.drafts * keep, self.tokens * keep, self.spent * keep)

    def export(self) -> dict[str, Any]:
        """Plain types."""
        return {"stood": list(self.stood), "judged": list(self.judged), **{name: getattr(self, name) for name in ("drafts", "tokens", "spent")}}

    @classmethod
    def adopted(cls, held: dict[str, Any]) -> Track:
        """The reverse of `export`."""
        return cls(_floats(held["stood"]), _floats(held["judged"]), float(held["drafts"]), float(held["tokens"]), float(held["spent"]))


def _floats(held: Sequence[Any]) -> list[float]:
    return [float(value) for value in held]


@functools.lru_cache(maxsize=256)
def _guess(costs: Costs, most: int) -> tuple[float, float]:
    """(tokens, plain steps) of the best constant lookahead of a drafter that nobody has seen at work."""
    curve = survival(GUESS, most)
    k = max(1, costs.best(curve)[0])
    return 1 + sum(curve[:k]), costs.step(k) / costs.step(0)


__all__ = ["Track"]
