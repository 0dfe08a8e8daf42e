"""Tie audit: is a greedy difference within what the target's own arithmetic leaves open?

The same ids give slightly different logits when they are computed alone or beside other rows, one token at a time or several. Where the two
largest logits are closer than that, neither token is the wrong one. Everywhere else a difference is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydraft.core.processors import Recipe
from anydraft.core.records import Request


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place at which two continuations of one prompt differ."""

    prompt: int
    place: int  # index among the new tokens
    tokens: tuple[int | None, int | None]  # the reference's and the other's, None behind the end
    gap: float  # between the two largest processed logits there
    noise: float  # the largest change of any logit there that another shape of the same forward made

    @property
    def explained(self) -> bool:
        """Both logits may move by the noise, towards each other."""
        return self.gap <= 2 * self.noise and None not in self.tokens


def audit(model: Any, prompts: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]], request: Request,
          width: int = 6) -> list[Divergence]:  # fmt: skip
    """The first divergence of each prompt whose two continuations are not equal.

    Args:
        model: the target, as transformers has it.
        request: whose penalties and bans shape the logits; its prompt is not used.
        width: rows, and tokens in the last block, of the forwards that the noise is measured with.
    """
    held = []
    for n, (prompt, a, b) in enumerate(zip(prompts, expected, found)):
        if list(a) == list(b):
            continue
        place = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        ids = torch.tensor([[*prompt, *a[:place]]], device=model.device)
        gap = top_gap(model, ids, request, len(prompt))
        pair = (a[place] if place < len(a) else None, b[place] if place < len(b) else None)
        held.append(Divergence(n, place, pair, gap, noise(model, ids, width)))
    return held


@torch.inference_mode()
def top_gap(model: Any, ids: Tensor, request: Request, prompt_length: int) -> float:
    """The difference of the two largest logits after ids i64[1, S], after penalties and bans."""
    import dataclasses

    recipe = Recipe.of(dataclasses.replace(request, prompt=ids[0, :prompt_length].cpu()))
    logits = model(input_ids=ids).logits[:, -1].double()
    for chain in (recipe.by_row, recipe.by_prefix):
        logits = chain(ids, logits) if chain else logits  # pyright: ignore[reportArgumentType]
    best = logits.topk(2, -1).values[0]
    return float(best[0] - best[1])


@torch.inference_mode()
def noise(model: Any, ids: Tensor, width: int = 6) -> float:
    """The largest difference in any logit after ids i64[1, S] between one row and `width` rows, and between one block and a cache."""
    alone = model(input_ids=ids).logits[0, -1].double()
    crowd = model(input_ids=ids.expand(width, -1).contiguous()).logits[:, -1].double()
    worst = float((crowd - alone).abs().max())
    for tail in {1, min(width, ids.shape[1] - 1)}:
        if tail >= 1 and ids.shape[1] > tail:
            cache = model(input_ids=ids[:, :-tail], use_cache=True).past_key_values
            late = model(input_ids=ids[:, -tail:], past_key_values=cache, use_cache=True).logits[0, -1].double()
            worst = max(worst, float((late - alone).abs().max()))
    return worst
