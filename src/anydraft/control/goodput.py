"""Goodput: one lookahead for the batch, the one with the most expected tokens per predicted second, 0 included.

Source:   Liu et al. 2024 (SmartSpec), arXiv:2406.14066
State:    per request: a moving average of the acceptance
Cost:     a few hundred multiplications a step
Differs:  times are interpolated from a measured table instead of a linear fit; every `explore`-th step without a draft drafts one token,
          since acceptance cannot be seen at 0. Looks at the other requests: at a temperature, results depend on the batch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from anydraft.core.costs import Costs, expected_tokens
from anydraft.core.memory import Memory
from anydraft.core.records import Context, Request, Size, Step
from anydraft.core.tree import reaches


def best_lookahead(acceptance: list[float], costs: Costs, most: int) -> int:
    """argmax over k in 0..most of the batch's expected tokens over the step's time; the smaller k of equals."""
    batch = len(acceptance)
    worth = [sum(expected_tokens(a, k) for a in acceptance) / costs.step(k, batch) for k in range(most + 1)]
    return worth.index(max(worth))


@dataclass(slots=True)
class _State:
    acceptance: float
    idle: int = 0  # steps in a row without a draft


class Goodput:
    """Args: max_assistant_tokens; costs, None assumes; acceptance, the first guess; memory, weight of the past in the average; explore."""

    def __init__(
        self, max_assistant_tokens: int = 16, costs: Costs | None = None, acceptance: float = 0.7, memory: float = 0.9, explore: int = 32
    ):
        self.most, self.costs, self.memory, self.explore = max_assistant_tokens, costs or Costs.assumed(), memory, explore
        self._states: Memory[_State] = Memory(lambda: _State(acceptance))

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        states = self._states.rows(context)
        k = best_lookahead([s.acceptance for s in states], self.costs, self.most)
        if k == 0 and min(s.idle for s in states) >= self.explore - 1:
            k = 1
        depth = torch.full((context.size,), k, dtype=torch.int64)
        return Size(depth=depth, nodes=depth)

    def keep(self, step: Step) -> None:
        """Learns the acceptance: each judged token counts, those behind the first refusal were not judged."""
        for b, (path, reach) in enumerate(zip(step.path, reaches(step.draft))):
            state = self._states.of(step.before, b)
            state.idle = 0 if reach else state.idle + 1
            for stood in [1.0] * len(path) + [0.0] * (len(path) < reach):
                state.acceptance = self.memory * state.acceptance + (1 - self.memory) * stood
        self._states.forget(step)

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request; None if nothing was."""
        state = self._states.find(request)
        return None if state is None else {"acceptance": state.acceptance, "idle": state.idle}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere."""
        self._states.adopt(request, _State(float(held["acceptance"]), int(held["idle"])))


__all__ = ["Goodput", "best_lookahead"]
