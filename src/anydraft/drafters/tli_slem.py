"""TLI and SLEM in one tree: one drafter run, read as shared tokens and as the target tokens that its text re-encodes to.

Source:   our own combination of TLI and SLEM, Timor et al. 2025, arXiv:2502.05202
Kinds:    independent, determined
Needs:    nothing
Cost:     one drafter forward per level, as TLI; the re-encoded branch adds at most as many nodes again
Differs:  the re-encoded tokens stand behind every sample that they were computed from, as determined siblings; where both readings agree
          they are one node. Exact under the tree rule; determined first, or a child placed before a sample it depends on, is biased
"""

from __future__ import annotations

import dataclasses

import torch

from anydraft.core.records import DETERMINED, INDEPENDENT, Context, Draft, Size
from anydraft.core.roles import Model, Noise
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.shared_chain import SharedChain


class TLISLEM:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    """

    kinds = ("independent", "determined")
    chain = False

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int):
        self.shared, self.aligner = SharedChain(model, aligner, vocab_size), aligner

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return self.shared.model.forwards

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`. `size.depth` counts the sampled levels."""
        draft = self.shared.propose(context, size, noise)
        if not draft.nodes:
            return draft
        branches = []
        tokens, lives, limits = draft.tokens.tolist(), draft.live.tolist(), (context.limit - context.length - 1).tolist()
        for slot, row, live, limit in zip(context.slot.tolist(), tokens, lives, limits):
            sampled = row[: sum(live)]
            read = self.aligner.candidates(self.shared.contexts.state(slot), self.aligner.mapped(sampled), limit) if sampled else []
            branches.append(_branch(sampled, read))
        return self._tree(draft, branches)

    def _tree(self, draft: Draft, branches: list[tuple[int, list[int]]]) -> Draft:
        """The sampled chain, then each row's re-encoded tokens where they leave it."""
        nodes, extra = draft.nodes, max(len(tokens) for _, tokens in branches)
        device = draft.tokens.device
        added = torch.tensor([tokens + [0] * (extra - len(tokens)) for _, tokens in branches], dtype=torch.int64, device=device)
        forks = [[at - 1, *range(nodes, nodes + extra - 1)] if extra else [] for at, _ in branches]
        live = torch.tensor([[n < len(tokens) for n in range(extra)] for _, tokens in branches], dtype=torch.bool, device=device)
        own = torch.tensor([[1] * nodes + [0] * extra], device=device).expand(len(branches), -1)
        return dataclasses.replace(
            draft,
            tokens=torch.cat([draft.tokens, added.view(len(branches), extra)], 1),
            parent=torch.cat([draft.parent, torch.tensor(forks, dtype=torch.int64, device=device).view(len(branches), extra)], 1),
            live=torch.cat([draft.live, live.view(len(branches), extra)], 1),
            kind=torch.where(own > 0, INDEPENDENT, DETERMINED),
            index=torch.cat([draft.index, torch.full((len(branches), extra), -1, device=device)], 1),
            levels=max([nodes] + [at + len(tokens) for at, tokens in branches]),
            chain=extra == 0,
            proposer=("slem", "tli"),
            source=own,
        )


def _branch(sampled: list[int], read: list[int]) -> tuple[int, list[int]]:
    """Where the re-encoded tokens leave the sampled ones, and what they are from there on."""
    at = 0
    while at < min(len(sampled), len(read)) and sampled[at] == read[at]:
        at += 1
    return at, read[at:]


__all__ = ["TLISLEM"]
