"""What a step costs and what it brings: the two numbers that every decision about lookahead weighs.

Source: expected tokens with acceptance `a` per token: Leviathan et al. 2023, arXiv:2211.17192, eq. 1. A step that drafts k levels
takes k * draft + v(k + 1); v(n) is the time of one target forward over n tokens, measured and not assumed flat.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anydraft.core.errors import BadOption

if TYPE_CHECKING:
    from torch import Tensor

    from anydraft.core.records import Context


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step's parts for one pair of models on one machine.

    >>> Costs(draft=0.1, verify=((1, 1.0), (11, 1.2))).step(5)
    1.6
    """

    draft: float  # one level of a draft
    verify: tuple[tuple[int, float], ...]  # (tokens in one target forward, its seconds), ascending
    start: float = 0.0  # of a draft, whatever its length
    read: float = 0.0  # one token of a text that the drafter has not read yet
    measured: bool = True  # False: assumed because nothing was measured

    @classmethod
    def assumed(cls) -> Costs:
        """In units of one plain step: a drafter ten times as fast, 2 % for each further token. For parts that were given nothing better."""
        return cls(draft=0.1, verify=((1, 1.0), (51, 2.0)), measured=False)

    def v(self, tokens: float, batch: int = 1) -> float:
        """Seconds of a target forward over `tokens` tokens in each of `batch` rows; linear between and beyond the measured sizes."""
        n, points = max(1.0, tokens * batch), self.verify
        if len(points) == 1:
            return points[0][1]
        at = min(max(1, bisect_left(points, (n, 0.0))), len(points) - 1)
        (n0, s0), (n1, s1) = points[at - 1], points[at]
        return max(points[0][1], s0 + (n - n0) * (s1 - s0) / (n1 - n0))

    def step(self, levels: float, batch: int = 1, nodes: float | None = None) -> float:
        """Seconds of a step that drafts `levels` levels (of `nodes` nodes in all, one a level if None)."""
        width = levels if nodes is None else nodes
        return self.v(1 + width, batch) + ((self.start + levels * self.draft) if width else 0.0)

    def more(self, levels: int, batch: int = 1) -> float:
        """Seconds that one level more than `levels` costs."""
        return self.draft + max(0.0, self.v(levels + 2, batch) - self.v(levels + 1, batch))

    def best(self, survival: Sequence[float], batch: int = 1) -> tuple[int, float]:
        """(k, tokens per second): the best constant lookahead when the j-th draft token is accepted with probability survival[j - 1]."""
        best, tokens = (0, 1 / self.step(0, batch)), 1.0
        for k, chance in enumerate(survival, 1):
            tokens += chance
            rate = tokens / self.step(k, batch)
            if rate > best[1]:
                best = (k, rate)
        return best

    def as_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "draft_s": self.draft,
            "start_s": self.start,
            "read_s": self.read,
            "verify_s": [list(p) for p in self.verify],
            "measured": self.measured,
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Costs:
        """The reverse of `as_dict`.

        Raises:
            BadOption: a field is missing, or no number.
        """
        try:
            verify = tuple(sorted((int(n), float(s)) for n, s in held["verify_s"]))
            costs = cls(
                float(held["draft_s"]),
                verify,
                float(held.get("start_s", 0.0)),
                float(held.get("read_s", 0.0)),
                bool(held.get("measured", True)),
            )
        except (KeyError, TypeError, ValueError) as cause:
            raise BadOption("a profile does not hold the costs of a step", got=repr(held)[:200], expected="draft_s, verify_s") from cause
        if not verify or min(s for _, s in verify) <= 0 or costs.draft < 0:
            raise BadOption("a profile's costs are not positive", got=costs.as_dict())
        return costs


@dataclass(frozen=True, slots=True)
class Member:
    """One of several drafters, as a control sees it that chooses between them."""

    name: str
    costs: Costs  # frozen: the same in every run
    measured: Costs | Mapping[int, Costs] | None = None  # on this machine, by batch size if there are several
    tree: bool = False
    look: Callable[[Context], Tensor] | None = None  # i64[B] what it can tell of its next draft for nothing: 0 that there is none


def expected_tokens(acceptance: float, k: int) -> float:
    """Tokens of a step that drafts k, each accepted with probability `acceptance` if those before it were.

    >>> expected_tokens(0.5, 2)
    1.75
    """
    return float(k + 1) if acceptance >= 1 else (1 - acceptance ** (k + 1)) / (1 - acceptance)


def survival(acceptance: float, most: int) -> list[float]:
    """Probability that the j-th draft token is accepted, j = 1..most."""
    return [acceptance**j for j in range(1, most + 1)]
