"""Heuristic: two more draft tokens after a step that accepted all of them, one fewer otherwise.

Source:   Gante 2023, "Assisted generation" (Hugging Face blog); transformers' `num_assistant_tokens_schedule="heuristic"`
State:    one number per request
Cost:     nothing
Differs:  never below 1, never above `max_assistant_tokens`; per request, so that batch neighbours do not share a number
"""

from __future__ import annotations

import torch

from anydraft.core.records import Context, Size, Step
from anydraft.core.tree import reaches


class Heuristic:
    """Args: num_assistant_tokens, where every request starts; max_assistant_tokens, where it stops growing."""

    def __init__(self, num_assistant_tokens: int = 5, max_assistant_tokens: int = 20):
        self.start, self.most = num_assistant_tokens, max_assistant_tokens
        self._wish: dict[int, int] = {}

    def open(self, context: Context) -> None:
        """New requests start afresh, whatever their slot held before."""
        for slot, step in zip(context.slot.tolist(), context.step.tolist()):
            if step == 0:
                self._wish[slot] = self.start

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.tensor([self._wish.get(slot, self.start) for slot in context.slot.tolist()], dtype=torch.int64)
        return Size(depth=k, nodes=k)

    def keep(self, step: Step) -> None:
        """Learns from the accepted length; a step without a draft teaches nothing."""
        for slot, path, reach in zip(step.before.slot.tolist(), step.path, reaches(step.draft)):
            if reach:
                wish = self._wish.get(slot, self.start)
                self._wish[slot] = min(self.most, wish + 2) if len(path) >= reach else max(1, wish - 1)

