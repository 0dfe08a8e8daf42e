"""String-level exact match: whatever text the drafter writes is re-encoded for the target, and the target's own tokens are matched against it.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 2 (Universal Assisted Generation)
Kinds:    determined
Needs:    nothing
Cost:     one drafter forward per drafted token; text is re-encoded on a bounded window
Differs:  candidates are anchored by places in the text, so periodic text cannot mislead them; committed target ids are never rewritten;
          also from a drafter that yields nothing but text (`text_model`)
"""

from __future__ import annotations

import dataclasses

import torch

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Model, Noise
from anydraft.core.rollout import determined_chain, draw_chain
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.contexts import DrafterContexts


class SLEM:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    """

    kinds = ("determined",)
    chain = True

    def __init__(self, model: Model, aligner: Aligner):
        self.model, self.aligner = model, aligner
        self.contexts = DrafterContexts(aligner, direct=False, max_length=model.max_length)

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return getattr(self.model, "forwards", 0)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`. `size.depth` counts the drafter's tokens; the target's candidates may be more or fewer."""
        own, room = self.contexts.follow(context)
        limits = (context.limit - context.length - 1).clamp_min(0)
        size = dataclasses.replace(size, depth=torch.minimum(size.depth.masked_fill(limits == 0, 0), room))
        draft = draw_chain(self.model, context, size, noise, own=own)
        found: list[list[int]] = [[] for _ in range(context.size)]
        if draft.nodes:
            for b, (slot, tokens, live) in enumerate(zip(context.slot.tolist(), draft.tokens.tolist(), draft.live.tolist())):
                drafted = tokens[: sum(live)]
                self.contexts.drafted(slot, drafted)
                if drafted:
                    found[b] = self.aligner.candidates(self.contexts.state(slot), drafted, int(limits[b]))
        return determined_chain(found, draft.forwards)


__all__ = ["SLEM"]
