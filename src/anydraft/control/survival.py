"""Survival: draft on while the best run of further drafts is worth more than the time it takes.

Source:   our own; the fractional program of tokens per second, with the acceptance learned from the request's own steps
State:    per request: acceptance by the drafter's probability, tokens and seconds so far
Cost:     one bucket look-up per drafted token; a dynamic program of 32 x 8 numbers every fourth step
Differs:  times are the given costs and not the clock, so that a seed gives the same tokens in every run; `full=False` is the one-step form
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydraft.core.costs import Costs
from anydraft.core.lookahead import threshold
from anydraft.core.memory import Memory
from anydraft.core.records import Context, Level, Request, Size, Step
from anydraft.core.reliability import Reliability, watched


@dataclass(slots=True)
class _State:
    reliability: Reliability = field(default_factory=Reliability)
    tokens: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    stop: float | None = None  # the threshold in use


class Survival:
    """Args: max_assistant_tokens, where a draft ends anyway; costs, None assumes a drafter ten times as fast; full, see `threshold`."""

    def __init__(self, max_assistant_tokens: int = 16, costs: Costs | None = None, full: bool = True):
        self.most, self.costs, self.full = max_assistant_tokens, costs or Costs.assumed(), full
        self._memory: Memory[_State] = Memory(_State)
        self._levels: list[Level] = []

    def size(self, context: Context) -> Size:
        """See `Control.size`. At least one token is drafted, since nothing would be learned otherwise."""
        states = self._memory.rows(context)
        stops = torch.tensor([self._stop(state) for state in states])
        rates = torch.tensor([state.reliability.rates() for state in states])
        levels = self._levels = []
        chance = torch.ones(context.size)

        def go_on(context: Context, level: Level) -> Tensor:
            nonlocal chance
            levels.append(level)
            bins = states[0].reliability.bins(level.prob)
            chance = chance * rates.gather(1, bins[:, None]).squeeze(1)
            return chance >= stops

        k = torch.full((context.size,), self.most, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=go_on)

    def _stop(self, state: _State) -> float:
        if state.stop is None or state.steps % 4 == 0:
            plain = self.costs.step(0)
            pace = (8 + state.tokens) / (8 * plain + state.seconds)  # as if eight plain steps went before
            rates, shares = np.array(state.reliability.rates()), np.array(state.reliability.shares())
            state.stop = threshold(pace * self.costs.more(3), rates, shares, full=self.full)
        return state.stop

    def keep(self, step: Step) -> None:
        """Learns which tokens stood, and what the step brought for what it cost."""
        bins = [self._memory.fresh().reliability.bins(level.prob).tolist() for level in self._levels]
        for b in range(step.before.size):
            state = self._memory.of(step.before, b)
            drafted = int(step.draft.live[b].sum()) if step.draft.nodes else 0
            state.steps += 1
            state.tokens += int(step.emitted[b])
            state.seconds += self.costs.step(drafted)
            state.reliability.learn([bins[i][b] for i in watched(self._levels, step, b)], len(step.path[b]))
        self._levels = []
        self._memory.forget(step)

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request, in plain types; None if nothing was."""
        state = self._memory.find(request)
        return None if state is None else {"tokens": state.tokens, "seconds": state.seconds, **state.reliability.export()}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere."""
        self._memory.adopt(request, _State(Reliability.adopted(held), float(held["tokens"]), float(held["seconds"])))


__all__ = ["Survival"]
