"""Confidence: draft on while the drafter's own probability of its last token is high enough.

Source:   transformers' `assistant_confidence_threshold`; the plain form of DISCO, Mamou et al. 2024, arXiv:2405.04304
State:    none
Cost:     one softmax per drafted token
Differs:  the probability is the one before temperature and truncation, so that it means the same at every temperature
"""

from __future__ import annotations

import torch
from torch import Tensor

from anydraft.core.records import Context, Level, Size


class Confidence:
    """Args: num_assistant_tokens, the most a step may draft; assistant_confidence_threshold in [0, 1]."""

    def __init__(self, num_assistant_tokens: int = 20, assistant_confidence_threshold: float = 0.4):
        self.num_assistant_tokens, self.threshold = num_assistant_tokens, assistant_confidence_threshold

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.full((context.size,), self.num_assistant_tokens, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=self._go_on)

    def _go_on(self, context: Context, level: Level) -> Tensor:
        # the token that made the drafter doubt was drawn, so it stays: discarding it would bias the output
        return level.prob >= self.threshold
