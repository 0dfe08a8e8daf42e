"""Draft model: a smaller model with the target's vocabulary drafts a chain or a tree.

Source:   Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318; trees: SpecInfer, arXiv:2305.09781; RSD, arXiv:2402.14160
Kinds:    independent, distinct, determined
Needs:    nothing
Cost:     one drafter forward per level
Differs:  logits beyond the shared vocabulary (padding) are never drawn; at temperature 0 a tree's siblings are the most likely tokens
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
            hear(context)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        size = size.clipped(context)
        if self.chain:
            return draw_chain(self.model, context, size, noise)
        # `num_assistant_tokens` is a tree's node budget: its depth is the shape's
        deep = torch.where(size.depth > 0, len(self.shape.width), 0)
        room = dataclasses.replace(size, depth=deep).clipped(context)
        return draw_tree(self.model, context, room, noise, self.shape)


class _Width:
    """The same model with logits of another width: what the target does not have is cut, what the drafter lacks is impossible."""

    def __init__(self, model: Model, width: int):
        self.inner, self.vocab_size, self.max_length = model, width, model.max_length

    @property
    def forwards(self) -> int:
        return getattr(self.inner, "forwards", 0)

    def open(self, context: Context) -> None:
        hear = getattr(self.inner, "open", None)
        if hear is not None:
            hear(context)

    def next(self, context: Context) -> Tensor:
        return self._fit(self.inner.next(context))

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        return self._fit(self.inner.grow(tokens, parent))

    def _fit(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.pad(logits[..., : self.vocab_size], (0, max(0, self.vocab_size - logits.shape[-1])), value=-torch.inf)


__all__ = ["DraftModel"]
