"""What steps really take, against what was said beforehand: for greedy requests, whose tokens no clock can change.

Costs that were measured once, or estimated, keep their shape and get three factors: for a plain step, for a step with a draft beside its drafting, and
for the drafting. Each is taken from the last steps without those that stand out, so a program that takes the machine for a moment changes none of them.
Plain steps are needed for the first; where speculation never pauses some are asked for now and then, and their tokens are kept. The first plain step behind
a draft finds the processor's caches full of the drafter and takes up to a tenth longer than those behind it, so it does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import NamedTuple

from anydraft.core.costs import Costs
from anydraft.core.records import Step

FIRST, SOON, EVERY, PROBE = 4, 8, 96, 3
"""Plain steps at the start where nothing is known; steps with drafts until the first probe where something is, and between two later ones; steps of a probe."""

ENOUGH, KEPT, RENEWED = 2, 16, 8
"""Steps of a kind before they count; how many of the last are remembered; steps after which factors are computed anew."""


class _Seen(NamedTuple):
    draft: float  # seconds
    rest: float
    levels: int
    nodes: int


@dataclass(slots=True)
class _Batch:
    """The last steps of one batch size."""

    plain: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    drafts: dict[str, deque[_Seen]] = field(default_factory=dict)  # by drafter
    made: dict[str, tuple[Costs, Costs]] = field(default_factory=dict)  # (what was said, what is true) by drafter
    steps: int = 0
    stale: bool = False  # whether the plain steps are another text's


class Clock:
    """The steps of one pair of models, of one call or of many."""

    def __init__(self) -> None:
        self._batches: dict[int, _Batch] = {}
        self._since = 0  # steps with drafts since the last probe
        self._row = 0  # plain steps in a row
        self._drafts = self._renewed = 0  # steps with drafts: so far, and when a text was last renewed

    def renew(self) -> None:
        """A new text begins: a step takes longer behind a longer one, so a probe is due soon, and takes the place of the probes before it."""
        if self._drafts - self._renewed < EVERY // 2 and self._renewed:
            return  # short texts would be little but probes
        self._renewed = max(1, self._drafts)
        self._since = max(self._since, EVERY - SOON)
        for batch in self._batches.values():
            batch.stale = True

    def wants_plain(self, size: int, known: bool) -> bool:
        """Whether the next step of a batch should be a probe of plain decoding. known: whether costs were measured before."""
        if not known and all(len(batch.plain) < FIRST - 1 for batch in self._batches.values()):
            return True
        seen = self._batches.get(size)
        return self._since >= (EVERY if seen is not None and len(seen.plain) >= ENOUGH else SOON)

    def keep(self, step: Step, drafters: Sequence[str]) -> None:
        """Takes in one step's times; drafters: of each row."""
        seen = self._batches.setdefault(step.before.size, _Batch())
        rest = step.seconds.verify + step.seconds.other
        self._since += step.draft.nodes > 0
        self._drafts += step.draft.nodes > 0
        self._row = 0 if step.draft.nodes else self._row + 1
        if self._row >= PROBE:
            self._since = 0
        if not step.draft.nodes:
            if self._row > 1:
                if seen.stale:
                    seen.plain.clear()
                    seen.made.clear()
                seen.stale = False
                seen.plain.append(rest)
        elif len(set(drafters)) == 1:  # a step that several drafters shared says nothing about any
            of = seen.drafts.setdefault(drafters[0], deque(maxlen=KEPT))
            of.append(_Seen(step.seconds.draft, rest, max(1, step.draft.levels), step.draft.nodes))
        seen.steps += 1
        if seen.steps % RENEWED == 0 or seen.steps <= 2 * FIRST:
            seen.made.clear()

    def costs(self, size: int, drafter: str, said: Costs) -> Costs:
        """What was said of a drafter's steps in a batch of this size, corrected by what they took."""
        seen = self._batches.get(size)
        if seen is None:
            return said
        held = seen.made.get(drafter)
        if held is None or held[0] is not said:
            held = seen.made[drafter] = (said, _corrected(said, size, seen.plain, seen.drafts.get(drafter, ())))
        return held[1]


def _usual(values: Iterable[float]) -> float:
    """The mean without what is more than twice the median: times are skewed, and what they sum up to is a mean."""
    held = list(values)
    most = 2 * median(held)
    return fmean(value for value in held if value <= most)


def _corrected(said: Costs, size: int, plain: Sequence[float], drafts: Sequence[_Seen]) -> Costs:
    first = _usual(plain) / said.step(0, size) if len(plain) >= ENOUGH else None
    rest = level = None
    start = 0.0
    if len(drafts) >= ENOUGH:
        rest = _usual(one.rest / said.v(1 + one.nodes, size) for one in drafts)
        if said.draft or said.start:
            level = _usual(one.draft / (said.start + one.levels * said.draft) for one in drafts)
        else:
            start = _usual(one.draft for one in drafts)
    if first is None and rest is None:
        return said
    first = first if first is not None else rest if rest is not None else 1.0
    rest = rest if rest is not None else first
    level = level if level is not None else first
    one = said.step(0, size) * first
    wider = tuple((n, max(one, seconds * rest)) for n, seconds in said.verify if n > size)
    return Costs(draft=said.draft * level, verify=((size, one), *wider), start=start or said.start * level, read=said.read * level)


__all__ = ["Clock"]
