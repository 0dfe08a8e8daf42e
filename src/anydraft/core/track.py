"""The track record of one drafter: how deep its tokens stood, what its drafts brought for what they cost, and how far to believe it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anydraft.core.costs import Costs, survival
from anydraft.core.reliability import Reliability

CURVE = 32  # depths whose acceptance is counted
GUESS = 0.7  # acceptance of a drafter that has not been seen at work
WEIGHT = 2.0  # drafts that the guess counts for
PAST = 0.95  # weight of what was seen before, per draft
FIRST = 16  # steps after which a drafter that was passed over is tried again, at first


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

    def worth(self, costs: Costs, behind: int = 0, most: int = 16, batch: int = 1) -> float:
        """Expected tokens over expected plain steps of the next draft, for which `behind` ids must be read first."""
        tokens, spent = _guess(costs, most, batch)
        seen = WEIGHT + self.drafts
        cost = (WEIGHT * spent + self.spent) / seen + behind * costs.read / costs.step(0, batch)
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


@dataclass(slots=True)
class Known:
    """What one request, and those before it, found out about one drafter."""

    reliability: Reliability = field(default_factory=Reliability)
    tracks: dict[int, Track] = field(default_factory=dict)  # by clue
    steps: int = 0  # with a draft of this drafter
    tokens: float = 0.0  # that these emitted
    spent: float = 0.0  # on them, in plain steps
    read: int = 0  # ids that it has read
    stop: float | None = None  # the chance of standing below which its drafts end
    stopped: int = 0  # steps when that was last decided
    asks: bool = True  # whether it asks after each level
    empty: int = 0  # drafts in a row that came out empty
    tree: bool = False  # whether a draft of it ever branched
    idle: int = 0  # steps since it was last chosen, or could have been
    wait: int = FIRST  # of them until it is tried again

    def track(self, clue: int) -> Track:
        """The record of drafts that came with this clue."""
        return self.tracks.setdefault(clue, Track())

    def faded(self) -> Known:
        """What is worth knowing in another text."""
        return Known(self.reliability.faded(), {clue: track.faded() for clue, track in self.tracks.items()}, asks=self.asks)

    def export(self) -> dict[str, Any]:
        """Plain types."""
        plain = {name: getattr(self, name) for name in ("steps", "tokens", "spent", "asks", "empty", "tree", "idle", "wait")}
        tracks = {str(clue): track.export() for clue, track in self.tracks.items()}
        return {"reliability": self.reliability.export(), "tracks": tracks, **plain}

    @classmethod
    def adopted(cls, held: dict[str, Any]) -> Known:
        """The reverse of `export`; a drafter elsewhere has read nothing yet."""
        tracks = {int(clue): Track.adopted(track) for clue, track in held["tracks"].items()}
        plain = {name: value for name, value in held.items() if name not in ("reliability", "tracks")}
        return cls(Reliability.adopted(held["reliability"]), tracks, **plain)


def _floats(held: Sequence[Any]) -> list[float]:
    return [float(value) for value in held]


@functools.lru_cache(maxsize=256)
def _guess(costs: Costs, most: int, batch: int) -> tuple[float, float]:
    """(tokens, plain steps) of the best constant lookahead of a drafter that nobody has seen at work."""
    curve = survival(GUESS, most)
    k = max(1, costs.best(curve, batch)[0])
    return 1 + sum(curve[:k]), costs.step(k, batch) / costs.step(0, batch)


__all__ = ["FIRST", "Known", "Track"]
