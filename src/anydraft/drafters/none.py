"""None: no draft at all, which is plain decoding.

Source:   the baseline of every comparison
Kinds:    determined
Needs:    nothing
Cost:     nothing
Differs:  nothing
"""

from __future__ import annotations

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Noise


class NoDraft:
    """Every step is one target forward and one token."""

    kinds = ("determined",)
    chain = True
    control = "fixed"

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        return Draft.empty(context.size)


__all__ = ["NoDraft"]
