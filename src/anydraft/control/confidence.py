"""Confidence: draft on while the drafter's own probability of its last token is high enough.

Source:   transformers' `assistant_confidence_threshold` and its re-fit by ROC; the plain form of DISCO, arXiv:2405.04304
State:    per request, with `refit`: the last 200 (probability, accepted) pairs and the threshold fitted to them
Cost:     one softmax per drafted token; with `refit` one ROC curve of at most 200 points a step
Differs:  the probability is the one before temperature and truncation, so that it means the same at every temperature; the fit is per
          request, looks at a window, and stays below 1, where the published one can become infinite and draft one token for ever
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anydraft.core.memory import Memory
from anydraft.core.records import Context, Level, Request, Size, Step
from anydraft.core.reliability import watched

WINDOW, LEAST = 200, 5


def fitted(pairs: Sequence[tuple[float, bool]], false_stop: float = 3.0) -> float | None:
    """The threshold with the least FPR + `false_stop` x FNR of "probability >= threshold means accepted"; None without both classes.

    >>> fitted([(0.9, True), (0.8, True), (0.7, True), (0.4, False), (0.3, False), (0.2, False)])
    0.7
    """
    good = sum(1 for _, stood in pairs if stood)
    bad = len(pairs) - good
    if len(pairs) <= LEAST or not good or not bad:
        return None
    threshold, below_good, below_bad = 0.0, 0, 0
    ordered = sorted(pairs)
    best = 1.0  # threshold 0: every refused token passes, no accepted one is stopped
    for place, (prob, stood) in enumerate(ordered):
        if place == 0 or prob > ordered[place - 1][0]:
            loss = (bad - below_bad) / bad + false_stop * below_good / good
            if loss < best:
                best, threshold = loss, prob
        below_good += stood
        below_bad += not stood
    return min(threshold, 1.0)


@dataclass(slots=True)
class _State:
    threshold: float
    pairs: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=WINDOW))


class Confidence:
    """Args:
    num_assistant_tokens: the most a step may draft.
    assistant_confidence_threshold: in [0, 1].
    refit: fit the threshold to the request's own steps.
    """

    def __init__(self, num_assistant_tokens: int = 20, assistant_confidence_threshold: float = 0.4, refit: bool = False):
        self.num_assistant_tokens, self.threshold, self.refit = num_assistant_tokens, assistant_confidence_threshold, refit
        self._memory: Memory[_State] = Memory(lambda: _State(self.threshold))
        self._levels: list[Level] = []

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.full((context.size,), self.num_assistant_tokens, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=self._fitting(context) if self.refit else self._go_on)

    def _go_on(self, context: Context, level: Level) -> Tensor:
        # the token that made the drafter doubt was drawn, so it stays: discarding it would bias the output
        return level.prob >= self.threshold

    def _fitting(self, context: Context):
        floors = torch.tensor([state.threshold for state in self._memory.rows(context)])
        levels = self._levels = []

        def go_on(context: Context, level: Level) -> Tensor:
            levels.append(level)
            return level.prob >= floors.to(level.prob.device)

        return go_on

    def keep(self, step: Step) -> None:
        """Fits the threshold to the judged tokens; those behind the first refusal were not judged."""
        if not self.refit:
            return
        probs = [level.prob.tolist() for level in self._levels]
        for b, path in enumerate(step.path):
            state = self._memory.of(step.before, b)
            places = watched(self._levels, step, b)[: len(path) + 1]
            state.pairs.extend((probs[i][b], n < len(path)) for n, i in enumerate(places))
            state.threshold = found if (found := fitted(state.pairs)) is not None else state.threshold
        self._levels = []
        self._memory.forget(step)

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request; None if nothing was."""
        state = self._memory.find(request)
        return None if state is None else {"threshold": state.threshold, "pairs": [list(pair) for pair in state.pairs]}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere."""
        pairs = ((float(prob), bool(stood)) for prob, stood in held["pairs"])
        self._memory.adopt(request, _State(float(held["threshold"]), deque(pairs, maxlen=WINDOW)))


__all__ = ["Confidence", "fitted"]
