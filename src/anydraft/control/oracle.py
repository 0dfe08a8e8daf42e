"""Oracle: draft exactly as far as the target will agree; for reports only, since it must be told the future.

Source:   Mamou et al. 2024, arXiv:2405.04304, section 2: the bound that a dynamic lookahead is measured against
State:    none
Cost:     nothing
Differs:  the future is given as a list of agreements per request; where the list ends, nothing is drafted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from anydraft.core.records import Context, Size


class Oracle:
    """Args:
    agreement: by prompt (a tuple of ids), whether the drafter's token for the i-th generated position is the target's.
    max_assistant_tokens: where a draft ends anyway.
    """

    def __init__(self, agreement: Mapping[tuple[int, ...], Sequence[bool]], max_assistant_tokens: int = 32):
        self.agreement, self.most = agreement, max_assistant_tokens

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.tensor([self._run(context, b) for b in range(context.size)], dtype=torch.int64)
        return Size(depth=k, nodes=k)

    def _run(self, context: Context, b: int) -> int:
        prompt = context.requests[b].prompt.tolist()
        known = self.agreement.get(tuple(prompt), ())
        run, place = 0, int(context.length[b]) - len(prompt)
        while run < self.most and place + run < len(known) and known[place + run]:
            run += 1
        return run


__all__ = ["Oracle"]
