"""A drafting model seen through some of its tokens: logits for those ids alone.

Masking logits before the softmax is the renormalisation q / q(I), so a model that has only these logits is TLI's q'.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anydraft.core.law import Law, Point, Subset
from anydraft.core.records import Context


def on_ids(model: Any, ids: Tensor) -> Restricted:
    """The model restricted to ids i64[I]: `next` and `grow` give f[..., I]; it is fed its own ids, whichever they are.

    A model that can compute only some rows of its head does (`model.restricted(ids)`); from others the columns are picked.
    """
    own = getattr(model, "restricted", None)
    return Restricted(own(ids) if own is not None else model, ids, picked=own is not None)


class Restricted:
    """Args: model; ids i64[I]; picked: whether the model's logits are already those of `ids`."""

    def __init__(self, model: Any, ids: Tensor, picked: bool = False):
        self.inner, self.ids, self.picked = model, ids, picked
        self.vocab_size, self.max_length = len(ids), model.max_length

    @property
    def forwards(self) -> int:
        """Forwards of the model inside."""
        return getattr(self.inner, "forwards", 0)

    def next(self, context: Context) -> Tensor:
        """See `Model.next`; the context is in the model's own ids."""
        return self._columns(self.inner.next(context))

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Model.grow`; tokens are the model's own ids."""
        return self._columns(self.inner.grow(tokens, parent))

    def _columns(self, logits: Tensor) -> Tensor:
        return logits if self.picked else logits[..., self.ids.to(logits.device)]


def in_target_ids(law: Law | None, ids: Tensor, width: int) -> Law:
    """Laws over the positions of `ids` i64[I] as laws over the target's tokens."""
    if isinstance(law, Point):
        return Point(ids[law.ids], width, law.dtype)
    return Subset(ids, law.probs, width)  # type: ignore[union-attr]
