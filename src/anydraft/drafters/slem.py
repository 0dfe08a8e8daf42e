"""String-level exact match: whatever text the drafter writes is re-encoded for the target, and the target's own tokens are matched against it.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 2 (Universal Assisted Generation)
Kinds:    determined
Needs:    nothing
Cost:     one drafter forward per drafted token; text is re-encoded on a bounded window
Differs:  candidates are anchored by places in the text, so periodic text cannot mislead them; committed target ids are never rewritten;
          also from a drafter that yields nothing but text (`text_model`); drafts the most likely tokens unless `draft_temperature` says otherwise:
          any draft is exact, and a likely token is drawn by the target more often than one that was drawn by the drafter
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from anydraft.core.processors import drafting_law
from anydraft.core.records import Context, Draft, Request, Size
from anydraft.core.roles import Model, Noise, TextModel
from anydraft.core.rollout import Reading, determined_chain, draw_chain
from anydraft.vocabulary.alignment import Aligner, IncrementalText
from anydraft.vocabulary.contexts import DrafterContexts


class SLEM:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    """

    kinds = ("determined",)
    chain = True

    def __init__(self, model: Model | TextModel, aligner: Aligner):
        self.model, self.aligner = model, aligner
        self._writes_text = isinstance(model, TextModel)
        self.contexts = DrafterContexts(aligner, direct=False, max_length=getattr(model, "max_length", None))
        self._texts: dict[int, _Text] = {}

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return getattr(self.model, "forwards", 0)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`. `size.depth` counts the drafter's tokens; the target's candidates may be more or fewer."""
        limits = (context.limit - context.length - 1).clamp_min(0)
        if self._writes_text:
            return self._from_text(context, size.clipped(context), limits)
        own, room = self.contexts.follow(context)
        size = dataclasses.replace(size, depth=torch.minimum(size.depth.masked_fill(limits == 0, 0), room))
        draft = draw_chain(self.model, context, size, noise, own=own, reading=_LIKELIEST)  # type: ignore[arg-type]
        found: list[list[int]] = [[] for _ in range(context.size)]
        if draft.nodes:
            rows = zip(context.slot.tolist(), draft.tokens.tolist(), draft.live.tolist(), limits.tolist())
            for b, (slot, tokens, live, limit) in enumerate(rows):
                drafted = tokens[: sum(live)]
                self.contexts.drafted(slot, drafted)
                if drafted:
                    found[b] = self.aligner.candidates(self.contexts.state(slot), drafted, limit)
        return determined_chain(found, draft.forwards)

    def _from_text(self, context: Context, size: Size, limits: Tensor) -> Draft:
        """The same from a drafter that yields nothing but text."""
        found: list[list[int]] = [[] for _ in range(context.size)]
        for b, (slot, depth, limit) in enumerate(zip(context.slot.tolist(), size.depth.tolist(), limits.tolist())):
            held = self._texts.get(slot)
            if held is None or held.request is not context.requests[b]:
                held = self._texts[slot] = _Text(context.requests[b], IncrementalText(self.aligner.target, start=True))
            length = int(context.length[b])
            if length < held.length:  # a provisional context was taken back
                held = self._texts[slot] = _Text(held.request, IncrementalText(self.aligner.target, start=True))
            held.text += held.stream.push(context.ids[b, held.length : length].tolist())
            held.length = length
            if depth and not held.stream.pending:
                written = self.model.continue_text(held.text.decode("utf-8", "replace"), depth)  # type: ignore[union-attr]
                found[b] = self.aligner.candidates_from_text(context.ids[b, max(0, length - 128) : length].tolist(), written, min(limit, 4 * depth))
        self._texts = {slot: self._texts[slot] for slot in context.slot.tolist()}
        return determined_chain(found, forwards=1)


_LIKELIEST = Reading(law=partial(drafting_law, default=0.0))


@dataclass(slots=True)
class _Text:
    request: Request
    stream: IncrementalText
    text: bytearray = field(default_factory=bytearray)
    length: int = 0  # target ids that `text` covers


__all__ = ["SLEM"]
