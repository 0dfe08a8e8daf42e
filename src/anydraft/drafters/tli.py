"""Token-level intersection: draw from the tokens that both vocabularies have, with their law renormalised.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 4
Kinds:    independent
Needs:    nothing
Cost:     one drafter forward per level, with only the shared rows of its head
Differs:  tokens are compared as bytes, not as strings; the drafter's context is the text in its own tokenizer's spelling, not mapped id by id;
          any temperature, any batch
"""

from __future__ import annotations

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Model, Noise
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.shared_chain import SharedChain


class TLI:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    """

    kinds = ("independent",)
    chain = True

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int):
        self.shared = SharedChain(model, aligner, vocab_size)

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return self.shared.model.forwards

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        return self.shared.propose(context, size, noise)


__all__ = ["TLI"]
