"""A drafter's head with fewer rows: which tokens to keep, and how other tools write that down.

Source: frequency ranking as in FR-Spec (Zhao et al. 2025, arXiv:2502.14856); ranking by the target's mean probability as RDK's
pruned drafters need it (Timor et al. 2025, arXiv:2506.03206).
Only the head is pruned. The drafter keeps its embedding, so every token can still be fed to it.

Inside, a pruned head is the list of the ids it keeps: row i of the head is token `ids[i]`. The `speculators` checkpoint
format (and EAGLE-3 before it) stores two tensors instead: `d2t` i64[U'], *offsets* with token = i + d2t[i], and `t2d` bool[U], a mask.
The two forms meet in `to_tensors` and `from_tensors` and nowhere else. U is the full vocabulary, U' the kept part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anydraft.core.errors import BadModel, BadOption
from anydraft.vocabulary.bytes import ByteVocabulary

WHITE_SPACE_AND_DIGITS = frozenset(b" \n\t\r0123456789")
"""Bytes whose tokens every text needs sooner or later, however rare they were in the counted one."""


@dataclass(frozen=True, eq=False)
class PrunedHead:
    """The rows that a head keeps: ids i64[U'], distinct, in [0, width); `prune` keeps them ascending."""

    ids: Tensor
    width: int  # U

    def __post_init__(self):
        if self.ids.dtype != torch.int64 or self.ids.dim() != 1 or not len(self.ids):
            raise BadModel("a pruned head needs a list of ids", got=f"{self.ids.dtype}{list(self.ids.shape)}", expected="i64[U'], U' >= 1")
        if len(self.ids.unique()) < len(self.ids) or int(self.ids.min()) < 0 or int(self.ids.max()) >= self.width:
            raise BadModel("the ids of a pruned head are not ids of its vocabulary", expected=f"0 <= id < {self.width}, each once")

    @property
    def kept(self) -> float:
        """Share of the vocabulary that is kept."""
        return len(self.ids) / self.width

    def rows(self) -> Tensor:
        """i64[U]: the head's row of each id, -1 for those that were pruned."""
        rows = torch.full((self.width,), -1, dtype=torch.int64)
        rows[self.ids] = torch.arange(len(self.ids))
        return rows

    def to_tensors(self) -> dict[str, Tensor]:
        """The `speculators` form.

        >>> {name: t.tolist() for name, t in PrunedHead(torch.tensor([0, 2, 3]), 5).to_tensors().items()}
        {'d2t': [0, 1, 1], 't2d': [True, False, True, True, False]}
        """
        mask = torch.zeros(self.width, dtype=torch.bool)
        mask[self.ids] = True
        return {"d2t": self.ids - torch.arange(len(self.ids)), "t2d": mask}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], width: int | None = None) -> PrunedHead:
        """Read the `speculators` form.

        Args:
            tensors: holds `d2t` i64[U'] and, as a rule, `t2d` bool[U]; other names are ignored.
            width: U, needed only where `t2d` is missing.

        Raises:
            BadModel: no `d2t`, or the two contradict each other.
        """
        if "d2t" not in tensors or ("t2d" not in tensors and width is None):
            raise BadModel(
                "no vocabulary map here",
                got=", ".join(sorted(tensors)[:8]) or "no tensor",
                expected="d2t and t2d",
                next_step="A drafter without them has a full head; if only t2d is missing, pass the width of the vocabulary",
            )
        offsets = tensors["d2t"].to(torch.int64)
        ids = offsets + torch.arange(len(offsets))
        if "t2d" in tensors:
            mask = tensors["t2d"].bool()
            width = len(mask)
            expected = mask.nonzero().flatten()
            if not torch.equal(ids.sort().values, expected):
                absolute = torch.equal(offsets.sort().values, expected)
                raise BadModel(
                    "d2t and t2d name different tokens",
                    got="absolute ids in d2t" if absolute else f"{len(ids)} ids in d2t, {len(expected)} in t2d",
                    expected="offsets: token = row + d2t[row]",
                    next_step="Write the file with PrunedHead.save" if absolute else "The checkpoint is damaged, fetch it again",
                )
        assert width is not None
        return cls(ids, width)

    def save(self, path: str | Path, others: Mapping[str, Tensor] | None = None) -> None:
        """Write a safetensors file with `d2t`, `t2d` and, unchanged, `others` (the weights of a checkpoint)."""
        save_file({**(others or {}), **self.to_tensors()}, str(path))

    @classmethod
    def load(cls, path: str | Path, width: int | None = None) -> PrunedHead:
        """Read a safetensors file. See `from_tensors`."""
        if not Path(path).is_file():
            raise BadModel("no such file", got=str(path), expected="a safetensors file with d2t and t2d")
        return cls.from_tensors(load_file(str(path)), width)


class HeadStatistics:
    """How often, or how probably, each token comes: counts of ids, or sums of laws, in float64.

    Measure them on texts that the *target* generates, at the temperature that will be served.
    """

    def __init__(self, width: int):
        """`width`: of the vocabulary whose tokens are counted."""
        self.total = torch.zeros(width, dtype=torch.float64)
        self.seen = 0

    def count(self, ids: Tensor | Iterable[int]) -> None:
        """Add i64[...] ids."""
        flat = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int64).flatten().cpu()
        self.total += torch.bincount(flat, minlength=len(self.total)).double()
        self.seen += len(flat)

    def add(self, laws: Tensor) -> None:
        """Add f[..., U] laws."""
        rows = laws.reshape(-1, laws.shape[-1])
        self.total += rows.double().sum(0).cpu()
        self.seen += len(rows)

    @property
    def mean(self) -> Tensor:
        """f64[U]: the mean law, or the relative frequencies."""
        return self.total / max(1, self.seen)


def required_ids(vocabulary: ByteVocabulary, stops: Iterable[int] = ()) -> Tensor:
    """i64[R] ids that no pruning may drop: stop and special tokens, single bytes, and tokens made of white space and digits.

    Args:
        vocabulary: of the head.
        stops: further ids that end a text.
    """
    needed = set(vocabulary.roles) | {id for id in stops if 0 <= id < vocabulary.width}
    for data, id in vocabulary.by_bytes.items():
        if len(data) == 1 or WHITE_SPACE_AND_DIGITS.issuperset(data):
            needed.add(id)
    return torch.tensor(sorted(needed), dtype=torch.int64)


def ranked(scores: Tensor) -> Tensor:
    """i64[U]: ids by falling score, lowest id first among equals. Id ranges say nothing about frequency."""
    return torch.sort(scores, descending=True, stable=True).indices


def prune(scores: Tensor, keep: float, required: Tensor | None = None) -> PrunedHead:
    """Keep the highest-scored share of a head, and the required ids in any case.

    Args:
        scores: f[U], `HeadStatistics.mean` for example.
        keep: share in (0, 1]; more are kept where `required` alone exceeds it.
        required: i64[R].

    >>> prune(torch.tensor([0.1, 0.5, 0.0, 0.4]), keep=0.5, required=torch.tensor([2])).ids.tolist()
    [1, 2]
    """
    if not 0 < keep <= 1:
        raise BadOption("the share of a head to keep is out of range", got=keep, expected="0 < keep <= 1")
    width = len(scores)
    first = torch.zeros(width, dtype=torch.bool)
    if required is not None:
        first[required] = True
    room = max(0, max(1, round(keep * width)) - int(first.sum()))
    order = ranked(scores.cpu())
    first[order[~first[order]][:room]] = True
    return PrunedHead(first.nonzero().flatten(), width)
