"""Draft model: a smaller model with the target's vocabulary drafts a chain or a tree.

Source:   Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318; trees: SpecInfer, arXiv:2305.09781; RSD, arXiv:2402.14160
Kinds:    independent, distinct, determined
Needs:    nothing
Cost:     one drafter forward per level
Differs:  logits beyond the shared vocabulary (padding) are never drawn; at temperature 0 a tree's siblings are the most likely tokens;
          a row that outgrows the drafter's context is no longer drafted for
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Model, Noise
from anydraft.core.rollout import Branching, draw_chain, draw_tree


class DraftModel:
    """Args:
    model: the drafter, over the same token ids as the target.
    vocab_size: V, the target's logits width.
    branching: children per level, () for a chain; e.g. (3, 2, 1, 1).
    sibling_kind: distinct, independent or determined.
    """

    def __init__(self, model: Model, vocab_size: int, branching: tuple[int, ...] = (), sibling_kind: str = "distinct"):
        self.shape = Branching(tuple(branching), sibling_kind)
        self.chain = not branching
        self.kinds = ("independent",) if self.chain else tuple(dict.fromkeys((sibling_kind, "determined")))
        self.model = model if model.vocab_size == vocab_size else _Width(model, vocab_size)

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return getattr(self.model, "forwards", 0)

    def open(self, context: Context) -> None:
        """Prefills the drafter."""
        hear = getattr(self.model, "open", None)
        if hear is not None:
            hear(self._held(context))

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        own, most = self._held(context), self.model.max_length
        if not self.chain:  # `num_assistant_tokens` is a tree's node budget: its depth is the shape's
            size = dataclasses.replace(size, depth=torch.where(size.depth > 0, len(self.shape.width), 0))
        if most is not None:
            size = dataclasses.replace(size, depth=torch.minimum(size.depth, (most - context.length).clamp_min(0)))
        size = size.clipped(context)
        if self.chain:
            return draw_chain(self.model, context, size, noise, own=own)
        return draw_tree(self.model, context, size, noise, self.shape, own=own)

    def _held(self, context: Context) -> Context:
        """The context as far as the drafter's own goes: what is longer is cut, so that its neighbours go on."""
        most = self.model.max_length
        if most is None or int(context.length.max()) <= most:
            return context
        length = context.length.clamp_max(most)
        return dataclasses.replace(context, length=length, committed=torch.minimum(context.committed, length))


class _Width:
    """The same model with logits of another width: what the target does not have is cut, what the drafter lacks is impossible.

    Ids that the drafter lacks reach it as its last one: they are padding of a vocabulary, and mean nothing that it could know.
    """

    def __init__(self, model: Model, width: int):
        self.inner, self.vocab_size, self.max_length = model, width, model.max_length
        self._last = model.vocab_size - 1

    @property
    def forwards(self) -> int:
        return getattr(self.inner, "forwards", 0)

    def open(self, context: Context) -> None:
        hear = getattr(self.inner, "open", None)
        if hear is not None:
            hear(self._known(context))

    def next(self, context: Context) -> Tensor:
        return self._fit(self.inner.next(self._known(context)))

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        return self._fit(self.inner.grow(tokens.clamp_max(self._last), parent))

    def _known(self, context: Context) -> Context:
        if self._last + 1 >= self.vocab_size:
            return context
        return dataclasses.replace(context, ids=context.ids.clamp_max(self._last))

    def _fit(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.pad(logits[..., : self.vocab_size], (0, max(0, self.vocab_size - logits.shape[-1])), value=-torch.inf)


__all__ = ["DraftModel"]
