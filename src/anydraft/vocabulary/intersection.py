"""What two vocabularies have in common: the maps of token-level methods.

Source: Timor et al. 2025, arXiv:2502.05202 (TLI). Keys are bytes; the paper's sets of strings are sets of byte strings here.
Where several ids of one tokenizer carry the same bytes, only the one that its own encoder produces is mapped: mapping two
would make the proposal law and the law that was sampled differ, and mapping none loses the most common tokens of
vocabularies with byte fallback. Special tokens are matched by role and by name, never by text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from anydraft.core.errors import WrongVocabulary
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.ids import DrafterIds, TargetIds
from anydraft.vocabulary.pieces import SPACE_SIGN

BYTE_LEVEL_SPACE = "\u0120"
NOT_SHARED = frozenset({"eos", "bos", "pad", "unk", "cls", "sep", "mask"})
"""Roles whose tokens do not stand for one another by name alone; a stop token of both requests does."""


@dataclass(frozen=True, eq=False)
class Intersection:
    """Which drafter id is which target id. Injective both ways.

    V is the target's logits width, U the drafter's, I the number of common tokens.
    """

    target: ByteVocabulary
    drafter: ByteVocabulary
    d2t: Tensor  # i64[U] target id of each drafter id, -1 where there is none
    t2d: Tensor  # i64[V] drafter id of each target id, -1 where there is none
    target_ids: Tensor  # i64[I] common tokens by target id, ascending ...
    drafter_ids: Tensor  # i64[I] ... and the drafter id of each
    string_ids: Tensor  # i64[J] target ids that a comparison of piece strings would find

    @classmethod
    def between(
        cls,
        target: ByteVocabulary,
        drafter: ByteVocabulary,
        *,
        target_stops: Collection[int] | None = None,
        drafter_stops: Collection[int] | None = None,
        empty: bool = False,
    ) -> Intersection:
        """Compare two vocabularies.

        Args:
            target, drafter: their vocabularies, at the logits widths of their models.
            target_stops: ids that end a text of the target, as the request says; None for its eos tokens.
            drafter_stops: the same for the drafter.
            empty: whether nothing in common is acceptable, as it is for methods that compare texts.

        Raises:
            WrongVocabulary: nothing in common.

        >>> target = ByteVocabulary.from_table([b"a", b"b", b"ab", None], {3: "eos"})
        >>> drafter = ByteVocabulary.from_table([None, b"b", b"c", b"ab"], {0: "eos"})
        >>> Intersection.between(target, drafter).d2t.tolist()
        [3, 1, -1, 2]
        """
        pairs = {id: target.by_bytes[data] for data, id in drafter.by_bytes.items() if data in target.by_bytes}
        stops = (
            set(target.ids_of("eos") if target_stops is None else target_stops),
            set(drafter.ids_of("eos") if drafter_stops is None else drafter_stops),
        )
        pairs |= _special_pairs(target, drafter, *stops)
        if not pairs and not empty:
            raise WrongVocabulary(
                "the two vocabularies have no token in common",
                got=f"{target.width} target ids and {drafter.width} drafter ids",
                expected="at least one token with the same bytes",
                next_step="Use method='slem', which compares texts and needs no common token",
            )
        return cls._from_pairs(target, drafter, pairs)

    @classmethod
    def _from_pairs(cls, target: ByteVocabulary, drafter: ByteVocabulary, pairs: dict[int, int]) -> Intersection:
        d2t = torch.full((drafter.width,), -1, dtype=torch.int64)
        t2d = torch.full((target.width,), -1, dtype=torch.int64)
        from_ids, to_ids = torch.tensor(list(pairs), dtype=torch.int64), torch.tensor(list(pairs.values()), dtype=torch.int64)
        d2t[from_ids] = to_ids
        t2d[to_ids] = from_ids
        target_ids = (t2d >= 0).nonzero().flatten()
        if len(target_ids) != len(pairs):
            raise WrongVocabulary(
                "two drafter ids would map to one target id",
                got=f"{len(pairs)} pairs for {len(target_ids)} target ids",
                expected="one drafter id for each target id",
            )
        return cls(target, drafter, d2t, t2d, target_ids, t2d[target_ids], _string_matches(target, drafter))

    @property
    def size(self) -> int:
        """I, the number of common tokens."""
        return len(self.target_ids)

    @property
    def size_by_strings(self) -> int:
        """How many a comparison of piece strings finds, leading space sign exchanged: what others do, for comparison only."""
        return len(self.string_ids)

    def expected(self, p: Tensor, by: Literal["bytes", "strings"] = "bytes") -> Tensor:
        """p(I): the target's mass on common tokens, the ceiling of TLI's acceptance.

        Args:
            p: f[..., V] target laws.
            by: which set; "strings" only for comparison.

        Returns:
            f[...], in [0, 1].
        """
        chosen = self.target_ids if by == "bytes" else self.string_ids
        return p[..., chosen.to(p.device)].sum(-1)

    def to_target(self, ids: DrafterIds) -> TargetIds:
        """The same tokens as target ids, -1 for those outside I.

        Args:
            ids: i64[...] of the drafter's vocabulary; -1 stays -1.

        Raises:
            WrongVocabulary: ids of another vocabulary.
        """
        plain = ids.plain(self.drafter)
        return TargetIds.of(_look_up(self.d2t, plain), self.target, padding=-1)

    def to_drafter(self, ids: TargetIds) -> DrafterIds:
        """The same tokens as drafter ids, -1 for those outside I. See `to_target`."""
        plain = ids.plain(self.target)
        return DrafterIds.of(_look_up(self.t2d, plain), self.drafter, padding=-1)

    def describe(self) -> str:
        """One line for logs and metrics."""
        ends = [f"{self.drafter.pieces[d]} -> {self.target.pieces[t]}" for d, t in self._special()]
        return (
            f"{self.size} common tokens of {self.target.width} target and {self.drafter.width} drafter ids"
            f" ({self.size / max(1, len(self.target.by_bytes)):.1%} / {self.size / max(1, len(self.drafter.by_bytes)):.1%} of their texts;"
            f" by strings {self.size_by_strings}); special tokens: {', '.join(ends) or 'none'}"
        )

    def _special(self) -> list[tuple[int, int]]:
        return [(d, t) for d, t in zip(self.drafter_ids.tolist(), self.target_ids.tolist()) if self.drafter.table[d] is None]


def _look_up(table: Tensor, ids: Tensor) -> Tensor:
    found = table.to(ids.device)[ids.clamp_min(0)]
    return torch.where(ids >= 0, found, -1)


def _special_pairs(target: ByteVocabulary, drafter: ByteVocabulary, target_stops: set[int], drafter_stops: set[int]) -> dict[int, int]:
    """Drafter id -> target id of special tokens: the main stop token by role, others where both gave them one name."""
    pairs = {}
    ends = _main_stop(target, target_stops), _main_stop(drafter, drafter_stops)
    if None not in ends:
        pairs[ends[1]] = ends[0]
    named = {target.pieces[id]: id for id in target.roles if target.table[id] is None}
    for id in drafter.roles:
        other = named.get(drafter.pieces[id])
        if other is None or id in pairs or other in pairs.values() or drafter.table[id] is not None:
            continue
        stops_one, stops_other = id in drafter_stops, other in target_stops
        if stops_one == stops_other and (stops_one or _plain(drafter, id) and _plain(target, other)):
            pairs[id] = other
    return pairs


def _plain(vocabulary: ByteVocabulary, id: int) -> bool:
    return NOT_SHARED.isdisjoint(vocabulary.roles[id])


def _main_stop(vocabulary: ByteVocabulary, stops: set[int]) -> int | None:
    """The stop token that its tokenizer calls eos, else the lowest special one."""
    special = sorted(id for id in stops if id in vocabulary.roles and 0 <= id < vocabulary.width)
    return next((id for id in special if vocabulary.has_role(id, "eos")), special[0] if special else None)


def _string_matches(target: ByteVocabulary, drafter: ByteVocabulary) -> Tensor:
    """Target ids found by comparing piece strings after exchanging the first space sign, as other libraries do."""
    signs = (SPACE_SIGN, BYTE_LEVEL_SPACE)
    own = next((sign for sign in signs if any(piece and piece.startswith(sign) for piece in target.pieces)), " ")
    strings = {own + piece[1:] if piece[:1] in signs else piece for piece in drafter.pieces if piece}
    return torch.tensor([id for id, piece in enumerate(target.pieces) if piece in strings], dtype=torch.int64)
