"""Fixed: the same number of draft tokens in every step.

Source:   Leviathan et al. 2023, arXiv:2211.17192
State:    none
Cost:     nothing
Differs:  nothing
"""

from __future__ import annotations

import torch

from anydraft.core.records import Context, Size


class Fixed:
    """Args: num_assistant_tokens, the depth of a chain and the node budget of a tree."""

    def __init__(self, num_assistant_tokens: int = 5):
        self.num_assistant_tokens = num_assistant_tokens

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.full((context.size,), self.num_assistant_tokens, dtype=torch.int64)
        return Size(depth=k, nodes=k)
