"""Heuristic: two more draft tokens after a step that accepted all of them, one fewer otherwise.

Source:   Gante 2023, "Assisted generation" (Hugging Face blog); transformers' `num_assistant_tokens_schedule="heuristic"`
State:    one number per request
Cost:     nothing
Differs:  never below 1, never above `max_assistant_tokens`; per request, so that batch neighbours do not share a number
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from anydraft.core.memory import Memory
from anydraft.core.records import Context, Request, Size, Step
from anydraft.core.tree import reaches


@dataclass(slots=True)
class _State:
    wish: int


class Heuristic:
    """Args: num_assistant_tokens, where every request starts; max_assistant_tokens, where it stops growing."""

    def __init__(self, num_assistant_tokens: int = 5, max_assistant_tokens: int = 20):
        self.start, self.most = num_assistant_tokens, max_assistant_tokens
        self._memory: Memory[_State] = Memory(lambda: _State(self.start))

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.tensor([state.wish for state in self._memory.rows(context)], dtype=torch.int64)
        return Size(depth=k, nodes=k)

    def keep(self, step: Step) -> None:
        """Learns from the accepted length; a step without a draft teaches nothing."""
        for state, path, reach in zip(self._memory.rows(step.before), step.path, reaches(step.draft)):
            if reach:
                state.wish = min(self.most, state.wish + 2) if len(path) >= reach else max(1, state.wish - 1)
        self._memory.forget(step)

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request; None if nothing was."""
        state = self._memory.find(request)
        return None if state is None else {"wish": state.wish}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere."""
        self._memory.adopt(request, _State(int(held["wish"])))


__all__ = ["Heuristic"]
