"""Token ids that know their vocabulary, so that ids of one tokenizer cannot be passed where another's are meant.

Inside a part, ids are plain tensors. Where they cross from one vocabulary's side to the other's they travel in
`TargetIds` or `DrafterIds`: the static types differ, and `plain` refuses ids of another vocabulary at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anydraft.core.errors import WrongVocabulary


class Tagged(Protocol):
    """What ids need to know of a vocabulary."""

    @property
    def width(self) -> int:
        """Number of ids, the logits width of its model."""
        ...

    @property
    def tag(self) -> str:
        """Digest of its contents: equal for two loads of one tokenizer, different for two tokenizers of one size."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """i64[...] ids of one vocabulary. Make them with `TargetIds.of` or `DrafterIds.of`."""

    tensor: Tensor
    tag: str

    @classmethod
    def of(cls, tensor: Tensor, vocabulary: Tagged, *, padding: int | None = None):
        """Tag ids. Host tensors are range-checked; device tensors are not, since that would wait for the device.

        Args:
            tensor: i64[...] ids in [0, width).
            vocabulary: theirs.
            padding: one value outside the range that is allowed too, such as -1 for "no token".

        Raises:
            WrongVocabulary: not int64, or an id outside the vocabulary.
        """
        if tensor.dtype != torch.int64:
            raise WrongVocabulary("token ids have the wrong dtype", got=tensor.dtype, expected=torch.int64)
        if tensor.device.type == "cpu" and tensor.numel():
            real = tensor if padding is None else tensor[tensor != padding]
            if real.numel() and not (0 <= int(real.min()) and int(real.max()) < vocabulary.width):
                worst = int(real.min()) if int(real.min()) < 0 else int(real.max())
                raise WrongVocabulary(
                    "a token id is outside its vocabulary",
                    got=worst,
                    expected=f"0 <= id < {vocabulary.width}",
                    next_step="Check which tokenizer the ids come from; an Intersection translates between target and drafter",
                )
        return cls(tensor, vocabulary.tag)

    def plain(self, vocabulary: Tagged) -> Tensor:
        """The tensor inside, if these ids are that vocabulary's.

        Raises:
            WrongVocabulary: they are another vocabulary's.
        """
        if self.tag != vocabulary.tag:
            raise WrongVocabulary(
                f"{type(self).__name__} of one vocabulary were passed where another's were meant",
                got=f"vocabulary {self.tag[:8]}",
                expected=f"vocabulary {vocabulary.tag[:8]}",
                next_step="Translate them first: Intersection.to_target, Intersection.to_drafter, or Aligner.translate",
            )
        return self.tensor


class TargetIds(Ids):
    """Ids of the target's vocabulary."""

    __slots__ = ()


class DrafterIds(Ids):
    """Ids of a drafter's vocabulary."""

    __slots__ = ()
