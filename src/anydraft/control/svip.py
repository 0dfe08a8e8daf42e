"""SVIP: draft on while the drafter's entropy bounds the acceptance from below by enough.

Source:   Zhang et al. 2024, "Draft Model Knows When to Stop", arXiv:2411.18462
State:    none
Cost:     one entropy per drafted token
Differs:  the entropy is that before temperature and truncation; the token drawn from the doubtful law stays, since it was drawn
"""

from __future__ import annotations

import torch
from torch import Tensor

from anydraft.core.records import Context, Level, Size


class SVIP:
    """Args: max_assistant_tokens, the most a step may draft; entropy_threshold, the largest square root of the entropy (nats) to go on."""

    def __init__(self, max_assistant_tokens: int = 16, entropy_threshold: float = 1.0):
        self.most, self.threshold = max_assistant_tokens, entropy_threshold

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.full((context.size,), self.most, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=self._go_on)

    def _go_on(self, context: Context, level: Level) -> Tensor:
        log = level.logits.log_softmax(-1)
        entropy = -torch.where(log.isneginf(), 0.0, log.exp() * log).sum(-1)  # nats
        return entropy.clamp_min(0).sqrt() <= self.threshold


__all__ = ["SVIP"]
