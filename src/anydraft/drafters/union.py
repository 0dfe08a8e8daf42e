"""Union: draw from the drafter's whole law; a token that the target does not have is a proposal of nothing.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 1 (the baseline)
Kinds:    independent
Needs:    nothing
Cost:     one drafter forward per level
Differs:  the chain ends at a foreign token, whose missing mass is part of the law that the rule subtracts
"""

from __future__ import annotations

import dataclasses

import torch

from anydraft.core.law import Dense, Law, Point
from anydraft.core.records import Context, Draft, Level, Size
from anydraft.core.roles import Model, Noise
from anydraft.core.rollout import draw_chain
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.contexts import DrafterContexts


class Union:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    """

    kinds = ("independent",)
    chain = True

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int):
        self.model, self.vocab_size, self.both = model, vocab_size, aligner.intersection
        self.contexts = DrafterContexts(aligner, direct=True, max_length=model.max_length)

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return getattr(self.model, "forwards", 0)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        own, room = self.contexts.follow(context)
        size = size.clipped(context)
        d2t = self.both.d2t

        def known(context: Context, level: Level) -> torch.Tensor:
            return (d2t.to(level.token.device)[level.token.clamp_min(0)] >= 0) & size.go_on(context, level).to(level.token.device)

        wish = dataclasses.replace(size, depth=torch.minimum(size.depth, room), go_on=known)
        draft = draw_chain(self.model, context, wish, noise, own=own)
        if not draft.nodes:
            return draft
        for slot, tokens, live in zip(context.slot.tolist(), draft.tokens.tolist(), draft.live.tolist()):
            self.contexts.drafted(slot, tokens[: sum(live)])
        return dataclasses.replace(draft, tokens=d2t.to(draft.tokens.device)[draft.tokens], law=self._law(draft.law))

    def _law(self, law: Law | None) -> Law:
        """The same laws over the target's ids; mass on foreign tokens is missing."""
        if isinstance(law, Point):
            law = Dense(torch.stack([law.rows(r) for r in range(law.ids.shape[1])], 1))
        q = law.probs  # type: ignore[union-attr]
        full = q.new_zeros(*q.shape[:2], self.vocab_size)
        full[:, :, self.both.target_ids.to(q.device)] = q[:, :, self.both.drafter_ids.to(q.device)]
        return Dense(full)


__all__ = ["Union"]
