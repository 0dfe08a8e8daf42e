"""FR-Spec: draft from the most frequent tokens only, so that most of the drafter's head is never computed.

Source:   Zhao et al. 2025, arXiv:2502.14856
Kinds:    independent
Needs:    nothing
Cost:     one drafter forward per level, with `keep_share` of its head
Differs:  frequencies are the target's own (`anydraft calibrate`); tokens that no pruning may drop are kept; also across vocabularies
"""

from __future__ import annotations

from typing import Any

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Model, Noise
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.shared_chain import SharedChain
from anydraft.vocabulary.statistics import kept_tokens, mean_law


class FRSpec:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    statistics: the target's mean law: a file that `anydraft calibrate` wrote, or f[V].
    keep_share: share of the common tokens that stays, in (0, 1].
    """

    kinds = ("independent",)
    chain = True

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int, statistics: Any = None, keep_share: float = 0.25):
        keep = kept_tokens(aligner.intersection, mean_law(statistics, aligner.intersection.target, "fr_spec"), keep_share)
        self.shared = SharedChain(model, aligner, vocab_size, keep)

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return self.shared.model.forwards

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        return self.shared.propose(context, size, noise)


__all__ = ["FRSpec"]
