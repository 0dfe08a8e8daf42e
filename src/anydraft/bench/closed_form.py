"""The closed forms of speculative decoding: what measured acceptance and measured costs say the speed-up should be.

Source: expected tokens per step, Leviathan et al. 2023, arXiv:2211.17192, Eq. 1 and Theorem 3.8; with verification that is not free, the
denominator is the step's own cost. All costs are in units of one plain target step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


def expected_tokens(alpha: float, k: int) -> float:
    """Tokens per step if each of k drafted tokens is accepted with probability alpha, independently: the target's own token included.

    >>> expected_tokens(0.5, 2), expected_tokens(1.0, 4)
    (1.75, 5.0)
    """
    return float(k + 1) if alpha >= 1 else (1 - alpha ** (k + 1)) / (1 - alpha)


def alpha_of(tokens_per_step: float, k: int) -> float:
    """The acceptance probability under which `expected_tokens` is this; 0 or 1 at the ends.

    >>> round(alpha_of(1.75, 2), 6)
    0.5
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, k) < tokens_per_step else (low, middle)
    return (low + high) / 2


def speedup_flat(alpha: float, k: int, c: float) -> float:
    """The textbook form: verification of k + 1 tokens costs as much as one, and nothing else takes time."""
    return expected_tokens(alpha, k) / (k * c + 1)


def speedup(tokens_per_step: float, draft: float, v: float, overhead: float = 0.0) -> float:
    """The same with every cost measured.

    Args:
        draft: of one step's drafting. v: of verifying one step's nodes. overhead: of everything else in a step.
    """
    return tokens_per_step / (draft + v + overhead)


def ceiling(alpha: float) -> float:
    """What no lookahead can exceed: free drafts of any length, flat verification."""
    return float("inf") if alpha >= 1 else 1 / (1 - alpha)


def memory_floor_s(bytes_per_token: float, bandwidth: float) -> float:
    """Least seconds per plain token: every weight is read once. bandwidth: 1e9 bytes per second."""
    return bytes_per_token / (bandwidth * 1e9)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a pair costs on this machine, measured apart from the runs that are to be predicted. Seconds."""

    plain_step: float  # one plain step, whole: the unit
    overhead: float  # the part of a speculative step that is neither drafting nor verifying
    draft_forward: float  # one drafter forward; 0 where nothing drafts
    draft_step: Mapping[int, float]  # a whole draft, by lookahead
    verify: Mapping[int, float]  # a verification of n tokens, by n

    @property
    def c(self) -> float:
        """One drafter forward in plain target steps."""
        return self.draft_forward / self.plain_step

    def v(self, tokens: float) -> float:
        """Verification of n tokens in plain target steps, linear between the measured n."""
        return interpolated(self.verify, tokens) / self.plain_step

    def d(self, k: float) -> float:
        """A draft of lookahead k in plain target steps, linear between the measured k."""
        return interpolated(self.draft_step, k) / self.plain_step if self.draft_step else 0.0


def interpolated(table: Mapping[int, float], x: float) -> float:
    """Piecewise linear, and on from the last two points behind the last.

    >>> interpolated({1: 1.0, 3: 2.0}, 2), interpolated({1: 1.0, 3: 2.0}, 5)
    (1.5, 3.0)
    """
    points = sorted(table.items())
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1 or x1 == points[-1][0]:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise AssertionError("the last interval takes every x")
