"""Drafting on shared tokens: what TLI, pruned heads and redistribution have in common.

Source: Timor et al. 2025, arXiv:2502.05202 (TLI). The drafter's context follows the target's text, its law is taken on shared tokens only, and drafts
come out in the target's ids.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anydraft.core.errors import WrongVocabulary
from anydraft.core.law import Law
from anydraft.core.processors import drafting_law
from anydraft.core.records import Context, Draft, Request, Size
from anydraft.core.roles import Model, Noise
from anydraft.core.rollout import Reading, draw_chain
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.contexts import DrafterContexts
from anydraft.vocabulary.restricted import Restricted, in_target_ids, on_ids

Redraw = Callable[[Law, Sequence[Request]], Law]


class SharedChain:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    keep: bool[I] which of the common tokens to use, in the order of `target_ids`; None: all.
    Raises WrongVocabulary if there is none.
    """

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int, keep: Tensor | None = None):
        both = aligner.intersection
        if not both.size:
            raise WrongVocabulary(
                "the two vocabularies have no token in common",
                got=f"{both.target.width} target ids and {both.drafter.width} drafter ids",
                expected="at least one token with the same bytes",
                next_step="Use method='slem', which compares texts and needs no common token",
            )
        self.target_ids = both.target_ids if keep is None else both.target_ids[keep]
        drafter_ids = both.drafter_ids if keep is None else both.drafter_ids[keep]
        self.model: Restricted = on_ids(model, drafter_ids)
        self.vocab_size, self.t2d = vocab_size, both.t2d
        self.place = torch.full((vocab_size,), -1, dtype=torch.int64)  # of each target id among the shared ones
        self.place[self.target_ids] = torch.arange(len(self.target_ids))
        # What its own tokenizer would have written is what the drafter learnt from; ids mapped one by one are often other splits of the text.
        self.contexts = DrafterContexts(aligner, direct=False, max_length=model.max_length)

    @functools.cached_property
    def _maps(self) -> tuple[Tensor, Tensor, Tensor]:
        """(target ids, their columns, the drafter's ids) where the model's logits are; they are as long as the vocabularies, so they go there once."""
        device = getattr(self.model.inner, "device", "cpu")
        return self.target_ids.to(device), self.place.to(device), self.t2d.to(device)

    def propose(self, context: Context, size: Size, noise: Noise, change: Redraw | None = None) -> Draft:
        """A chain of independent nodes in the target's ids.

        change: turns the law on shared tokens, over the target's ids, into the one to draw from. A drawn token that the drafter has not
            got at all ends the chain there.
        """
        own, room = self.contexts.follow(context)
        size = size.clipped(context)
        size = dataclasses.replace(size, depth=torch.minimum(size.depth, room))

        ids, place, t2d = self._maps

        def law(logits: Tensor, requests: Sequence[Request]) -> Law:
            shared = in_target_ids(drafting_law(logits, requests), ids, self.vocab_size)
            return shared if change is None else change(shared, requests)

        reading = Reading(law=law, column=place.__getitem__, fed=t2d.__getitem__)
        draft = draw_chain(self.model, context, size, noise, own=own, reading=reading)
        for slot, tokens, live in zip(context.slot.tolist(), draft.tokens.tolist(), draft.live.tolist()) if draft.nodes else ():
            fed = self.contexts.aligner.mapped(tokens[: sum(live)])
            self.contexts.drafted(slot, fed[: fed.index(-1)] if -1 in fed else fed)
        return draft
