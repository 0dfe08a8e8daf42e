"""Counter-based noise: every decision is a pure function of its key, so a row never depends on its batch neighbours.

Source: SplitMix64, Steele et al. 2014 (doi:10.1145/2660193.2660195), as a mixing function of the key.

A draft decision must be fresh in each step: a position drafted again after a rejection under the same noise silently breaks
block verification and every control that looks at rejected nodes. Hence the step is part of the key, except for a rule
that keeps the path, which asks with `path=True` and gets noise of (seed, position) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from anydraft.core.law import Law, Point
from anydraft.core.law import nobody as nobody
from anydraft.core.records import Context

PURPOSES = {"accept": 1, "target": 2, "draft": 3, "keep": 4, "choice": 5, "retry": 6}
"""What a decision is for; part of its key."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


_ALL = 2**64 - 1
_FEW = 8  # rows below which Python's integers are faster than fifty calls of numpy


def _word(key: Sequence[int], word: int = 0) -> int:
    """One row of `hashed`, in Python's integers; `word` is that of the parts before these."""
    for part in key:
        word = _mix_int((word + 0x9E3779B97F4A7C15 + _mix_int((part + 1) * 0x9E3779B97F4A7C15 & _ALL)) & _ALL)
    return word


def _mix_int(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _ALL
    return z ^ (z >> 31)


def hashed(*parts: np.ndarray | int) -> np.ndarray:
    """u64[B]: one well-mixed word per row from the parts of a key, each an integer or an integer array [B]."""
    arrays = [np.asarray(part).reshape(-1) for part in parts]
    rows = max(map(len, arrays))
    if rows <= _FEW:
        columns = [array.tolist() for array in arrays]
        return np.array([_word([column[b if len(column) > 1 else 0] for column in columns]) for b in range(rows)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        word = np.zeros(1, dtype=np.uint64)
        for array in arrays:
            word = _mix(word + _GOLDEN + _mix(array.astype(np.int64).view(np.uint64) * _GOLDEN + _GOLDEN))
        return word


_ANY = torch.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class KeyedNoise:
    """Production noise of one step.

    >>> row = KeyedNoise(np.array([7]), np.array([0]), np.array([42]))
    >>> crowd = KeyedNoise(np.array([3, 7, 9]), np.array([5, 0, 2]), np.array([41, 42, 43]))
    >>> bool(row.uniform("accept", 4)[0] == crowd.uniform("accept", 4)[1])
    True
    """

    seed: np.ndarray  # i64[B]
    step: np.ndarray  # i64[B] steps of that request, or epochs of a parallel schedule
    position: np.ndarray  # i64[B] length of the context
    _begun: list[int] = field(default_factory=list, repr=False)  # words of (seed, step, position), with which most keys begin

    def uniform(self, purpose: str, number: int, *, path: bool = False) -> np.ndarray:
        """f64[B] in [0, 1): 53 random bits of the key. With `path`, `number` is the offset behind the context."""
        code = PURPOSES[purpose]
        if path:
            word = hashed(self.seed, self.position + number, code)
        elif len(self.seed) > _FEW:
            word = hashed(self.seed, self.step, self.position, code, number)
        else:
            if not self._begun:
                self._begun.extend(map(_word, zip(self.seed.tolist(), self.step.tolist(), self.position.tolist())))
            word = np.array([_word((code, number), begun) for begun in self._begun], dtype=np.uint64)
        return (word >> _S11).astype(np.float64) * 2.0**-53

    def bernoulli(self, prob: Tensor, asked: Tensor, purpose: str, number: int) -> Tensor:
        """See `Noise.bernoulli`."""
        # u < prob with u in [0, 1): probability 0 never happens and probability 1 always does
        uniform = torch.from_numpy(self.uniform(purpose, number)).to(prob.device, non_blocking=True)
        return asked & (uniform < prob)

    def categorical(
        self, law: Law, index: Tensor | int, asked: Tensor, purpose: str, number: int, *, path: bool = False, empty: bool = False
    ) -> Tensor:
        """See `Noise.categorical`."""
        if isinstance(law, Point):  # every quantile of a one-hot law is its token: no number is needed
            return torch.where(asked, law.draw(index, _ANY), -1)
        uniform = torch.from_numpy(self.uniform(purpose, number, path=path)).to(asked.device, non_blocking=True)
        return torch.where(asked, law.draw(index, uniform, empty=empty), -1)


class Keyed:
    """The production source of noise."""

    def at(self, context: Context) -> KeyedNoise:
        """Noise of this step of these rows."""
        return KeyedNoise(np.array([r.seed for r in context.requests], dtype=np.int64), context.step.numpy(), context.length.numpy())
