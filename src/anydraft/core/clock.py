"""Seconds of one call's steps, for greedy requests whose costs nobody has measured: plain steps at first and now and then, their tokens kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from anydraft.core.costs import Costs
from anydraft.core.records import Context, Step

FIRST, EVERY, KEPT = 3, 64, 16
"""Plain steps at the start; steps between two later ones; how many of the last steps are remembered."""


def _last() -> deque:
    return deque(maxlen=KEPT)


@dataclass(slots=True)
class _Drafts:
    seconds: deque[float] = field(default_factory=_last)  # of a level
    verify: deque[tuple[int, float]] = field(default_factory=_last)


class Clock:
    """Args: drafters, how many there are to choose from."""

    def __init__(self, drafters: int = 1) -> None:
        self.drafters, self.size = drafters, 0
        self._clear()

    def _clear(self) -> None:
        self.plain: deque[float] = _last()
        self.drafts = [_Drafts() for _ in range(self.drafters)]
        self.since = 0  # steps since the last plain one

    def wants_plain(self, context: Context, known: Sequence[bool]) -> bool:
        """Whether the next step should be a probe of plain decoding. known: whether each drafter's costs are."""
        if all(known) or any(r.temperature > 0 for r in context.requests):
            return False
        return len(self.plain) < FIRST or self.since >= EVERY

    def keep(self, step: Step, picks: Sequence[int]) -> None:
        """Takes in one step's times; picks: the drafter of each row."""
        if step.before.size != self.size:  # another batch, other times
            self._clear()
            self.size = step.before.size
        self.since = self.since + 1 if step.draft.nodes else 0
        if not step.draft.nodes:
            self.plain.append(step.seconds.verify)
        elif len(set(picks)) == 1:  # a step that several drafters shared says nothing about any
            drafts = self.drafts[picks[0]]
            drafts.seconds.append(step.seconds.draft / max(1, step.draft.levels))
            drafts.verify.append((1 + step.draft.nodes, step.seconds.verify))

    def costs(self, size: int, otherwise: Sequence[Costs]) -> list[Costs]:
        """Medians by drafter; what was given where there is not enough to go by."""
        return [self._costs(size, drafts) or given for drafts, given in zip(self.drafts, otherwise)]

    def _costs(self, size: int, drafts: _Drafts) -> Costs | None:
        if size != self.size or len(self.plain) < FIRST or len(drafts.verify) < 3:
            return None
        plain, width = median(self.plain), median(n for n, _ in drafts.verify)
        wide = max(plain, median(s for _, s in drafts.verify))
        return Costs(draft=median(drafts.seconds), verify=((1, plain), (max(2, int(width)), wide)))


__all__ = ["Clock"]
