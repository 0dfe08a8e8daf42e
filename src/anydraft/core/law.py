"""Laws of the next token, and how options turn logits into one.

A `Law` is an object, not a tensor f[B, R, V]: 64 nodes of 128k words would be 33 MB a request. Rules and drafters use three
verbs, `rows`, `at` and `draw`, and never learn how a law is stored. Temperature 0 is the one-hot law of the largest logit, stored
as an id. A sub-law has mass below 1; what it lacks is the event "no proposal".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anydraft.core.records import DETERMINED, Draft

TINY = 1e-300  # guards a division whose numerator is then 0, in float64; float32 arithmetic clamps at its own smallest number


class Law(Protocol):
    """R laws over V tokens for each of B requests. `index` is an int or i64[B]: one row per request."""

    @property
    def width(self) -> int:
        """V."""
        ...

    def rows(self, index: Tensor | int) -> Tensor:
        """f[B, V]: probabilities of the chosen row."""
        ...

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """f[B]: probability of token i64[B] in the chosen row; 0 for token -1."""
        ...

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """i64[B]: the token at quantile uniform f64[B]; with `empty`, -1 where the quantile lies beyond the row's mass."""
        ...


def nobody(asked: Tensor) -> bool:
    """True if it is known, without waiting for a device, that nobody asks; then a rule may skip the work."""
    return asked.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(asked.any())


def _chosen(values: Tensor, index: Tensor | int) -> Tensor:
    """Row `index` of each request: values [B, R, ...] -> [B, ...]."""
    if isinstance(index, int):
        return values[:, index]
    return values[torch.arange(values.shape[0], device=values.device), index]


def quantile(row: Tensor, uniform: Tensor, *, empty: bool = False) -> Tensor:
    """The token at a quantile of each row, by the inverse of the cumulative law.

    Args:
        row: f[B, V] non-negative; need not sum to 1 unless `empty`.
        uniform: f64[B] in [0, 1).
    """
    cumulative = row.double().cumsum(-1)
    total = cumulative[:, -1:]
    point = uniform[:, None] * (total.clamp_min(1.0) if empty else total)
    token = torch.searchsorted(cumulative, point, right=True).squeeze(-1)
    beyond = token >= row.shape[-1]
    if nobody(beyond):
        return token
    # rounding can put a quantile at the very end behind the last token: the last one with any mass is meant
    last = row.shape[-1] - 1 - (row > 0).flip(-1).to(torch.uint8).argmax(-1)
    return torch.where(beyond, torch.full_like(token, -1) if empty else last, token)


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Laws given in full."""

    probs: Tensor  # f[B, R, V]

    @property
    def width(self) -> int:
        """V."""
        return self.probs.shape[-1]

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`."""
        return _chosen(self.probs, index)

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`."""
        return _picked(self.rows(index), token)

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        return quantile(self.rows(index), uniform, empty=empty)


def _picked(row: Tensor, token: Tensor) -> Tensor:
    """f[B]: entry `token` of each row, 0 for token -1."""
    value = row.gather(-1, token.clamp_min(0)[:, None]).squeeze(-1)
    return torch.where(token < 0, torch.zeros_like(value), value)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One-hot laws, stored as ids."""

    ids: Tensor  # i64[B, R]
    width: int
    dtype: torch.dtype = torch.float32

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`."""
        ids = _chosen(self.ids, index)
        return torch.zeros(len(ids), self.width, dtype=self.dtype, device=ids.device).scatter_(1, ids[:, None], 1.0)

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`."""
        return (_chosen(self.ids, index) == token).to(self.dtype)

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        return _chosen(self.ids, index)


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """Laws that live on a subset of the ids: an intersection of vocabularies, a pruned head."""

    ids: Tensor  # i64[W] the ids that carry mass, ascending
    probs: Tensor  # f[B, R, W]
    width: int

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`."""
        part = _chosen(self.probs, index)
        return part.new_zeros(len(part), self.width).index_copy_(1, self.ids, part)

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`."""
        place = torch.searchsorted(self.ids, token.clamp_min(0)).clamp_max(len(self.ids) - 1)
        value = _chosen(self.probs, index).gather(-1, place[:, None]).squeeze(-1)
        return torch.where(self.ids[place] == token, value, torch.zeros_like(value))

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        place = quantile(_chosen(self.probs, index), uniform, empty=empty)
        return torch.where(place < 0, place, self.ids[place.clamp_min(0)])


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The rows of several laws in one count: law i has the rows from starts[i] on. Each request asks for a row of whichever it was drawn from."""

    laws: Sequence[Law]
    starts: Sequence[int]

    @property
    def width(self) -> int:
        """V."""
        return self.laws[0].width

    def _per_law(self, index: Tensor | int, of: Callable[[Law, Tensor | int], Tensor]) -> Tensor:
        if isinstance(index, int):
            i = max(n for n, start in enumerate(self.starts) if start <= index)
            return of(self.laws[i], index - self.starts[i])
        found = torch.zeros(0)
        for law, start in zip(self.laws, self.starts):  # starts ascend, so a later law overrules an earlier one
            mine = index >= start
            part = of(law, torch.where(mine & (index < self._end(start)), index - start, 0))
            mine = mine if part.ndim == 1 else mine[:, None]
            found = torch.where(mine, part.to(found.dtype), found) if len(found) else part
        return found

    def _end(self, start: int) -> int:
        return min((s for s in self.starts if s > start), default=1 << 62)

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`."""
        return self._per_law(index, lambda law, i: law.rows(i))

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`."""
        return self._per_law(index, lambda law, i: law.at(i, token))

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        return self._per_law(index, lambda law, i: law.draw(i, uniform, empty=empty))


def proposal_at(draft: Draft, node: int) -> Tensor:
    """f[B]: probability with which each row's node `node` was proposed, 1 for a determined one, 0 for an empty draw."""
    point = (draft.tokens[:, node] >= 0).float()
    if draft.law is None:
        return point
    drawn = draft.law.at(draft.index[:, node].clamp_min(0), draft.tokens[:, node])
    return torch.where(draft.kind[:, node] == DETERMINED, point.to(drawn.dtype), drawn)


def proposal_rows(draft: Draft, node: Tensor | int, width: int) -> Tensor:
    """f[B, V]: the law that node (int or i64[B]) of each row was drawn from, one-hot for a determined one."""
    determined = _chosen(draft.kind, node) == DETERMINED
    drawn = None if draft.law is None else draft.law.rows(_chosen(draft.index, node).clamp_min(0))
    if drawn is not None and nobody(determined):
        return drawn
    token = _chosen(draft.tokens, node)
    point = torch.zeros(len(token), width, device=token.device).scatter_(1, token.clamp_min(0)[:, None], (token >= 0).float()[:, None])
    return point if drawn is None else torch.where(determined[:, None], point.to(drawn.dtype), drawn)


def without(row: Tensor, tried: Tensor) -> Tensor:
    """The law of a draw that must not repeat: `row` f[B, V] without the tokens in tried bool[B, V].

    The mass that the row never had stays: a sub-law's "no proposal" is not a token and is not excluded.
    Rows that are left without any mass come back as zeros.
    """
    lacking = 1.0 - row.sum(-1, keepdim=True)
    lacking = torch.where(lacking > 1e-6, lacking, torch.zeros_like(lacking))
    left = torch.where(tried, torch.zeros_like(row), row)
    total = left.sum(-1, keepdim=True) + lacking
    return torch.where(total > 0, left / total.clamp_min(torch.finfo(row.dtype).tiny), torch.zeros_like(left))


def remainder(law: Law, row: Tensor, draft: Draft, node: Tensor | None, refused: Tensor | None) -> Law:
    """What a token is drawn from once proposals were judged: one law, the residual where a proposal was refused, else the row itself.

    Args:
        law, row: the target's laws, and the row i64[B] that each request has come to.
        node, refused: i64[B] the refused node, read where refused bool[B]; None where it is known that nothing was refused.
    """
    if isinstance(law, Point):  # a one-hot p that refused a proposal leaves p: whatever q had, p's own token is not spent
        return Point(_chosen(law.ids, row)[:, None], law.width, law.dtype)
    p = law.rows(row)
    if node is None or refused is None:
        return Dense(p[:, None])
    return Dense(torch.where(refused[:, None], residual(p, proposal_rows(draft, node, law.width)), p)[:, None])


def residual(p: Tensor, q: Tensor) -> Tensor:
    """f[B, V]: what is left of p once a proposal from q was refused, max(p - q, 0) normalised.

    Where rounding leaves nothing (p equals q), p itself: a refusal there has probability zero.
    """
    rest = (p - q).clamp_min(0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total.clamp_min(torch.finfo(p.dtype).tiny), p)
