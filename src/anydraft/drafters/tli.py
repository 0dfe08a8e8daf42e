"""Token-level intersection: draw from the tokens that both vocabularies have, with their law renormalised.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 4
Kinds:    independent
Needs:    nothing
Cost:     one drafter forward per level, with only the shared rows of its head
Differs:  tokens are compared as bytes, not as strings; unmapped target tokens reach the drafter as re-encoded text; any temperature, any batch
"""

from __future__ import annotations

import dataclasses

import torch

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Model, Noise
from anydraft.core.rollout import draw_chain
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.contexts import DrafterContexts
from anydraft.vocabulary.restricted import in_target_ids, on_ids


class TLI:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    """

    kinds = ("independent",)
    chain = True

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int):
        both = aligner.intersection
        self.model = on_ids(model, both.drafter_ids)
        self.target_ids, self.drafter_ids, self.vocab_size = both.target_ids, both.drafter_ids, vocab_size
        self.contexts = DrafterContexts(aligner, direct=True, max_length=model.max_length)

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return getattr(self.model, "forwards", 0)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        own, room = self.contexts.follow(context)
        size = size.clipped(context)
        size = dataclasses.replace(size, depth=torch.minimum(size.depth, room))
        draft = draw_chain(self.model, context, size, noise, own=own)
        if not draft.nodes:
            return draft
        for slot, tokens, live in zip(context.slot.tolist(), draft.tokens.tolist(), draft.live.tolist()):
            self.contexts.drafted(slot, self.drafter_ids[tokens[: sum(live)]].tolist())
        ids = self.target_ids.to(draft.tokens.device)
        return dataclasses.replace(draft, tokens=ids[draft.tokens], law=in_target_ids(draft.law, ids, self.vocab_size))


__all__ = ["TLI"]
