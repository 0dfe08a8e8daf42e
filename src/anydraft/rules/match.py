"""Sample and match: draw the target's own token at each node and follow the child that carries it.

Source:   Multi-path greedy verification; Stern et al. 2018, arXiv:1811.03115; SLEM, Timor et al. 2025, arXiv:2502.05202, Alg. 2
Keeps:    path             the very tokens of plain decoding with the same seed
Judges:   tree             determined, independent, distinct
Noise:    path             the target's draw at a position is keyed by (seed, position) alone
Cost:     one f[B, V] row of p per accepted token and one more
Differs:  nothing
"""

from __future__ import annotations

import torch

from anydraft.core.noise import nobody
from anydraft.core.records import Draft, Scores, Verdict
from anydraft.core.roles import Noise
from anydraft.core.tree import child_with


class Match:
    """Needs no law of the drafter, so it is exact for any tree however it was built."""

    kinds = ("determined", "independent", "distinct")
    chain = False

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """Args: draft of N nodes. Returns the path of at most `draft.levels` nodes and the target's next token."""
        batch, device = draft.tokens.shape[0], draft.tokens.device
        current = torch.full((batch,), -1, dtype=torch.int64, device=device)
        walking = torch.ones(batch, dtype=torch.bool, device=device)
        count, token = torch.zeros_like(current), current.clone()
        path = torch.full((batch, draft.levels), -1, dtype=torch.int64, device=device)
        rows = scores.logits.shape[1]  # a parallel schedule has none behind its last node
        for depth in range(draft.levels + 1):
            token = torch.where(walking, -1, token)
            walking = walking & (current + 1 < rows)
            if nobody(walking):
                break
            drawn = noise.categorical(scores.law, current + 1, walking, "target", depth, path=True)
            # the token that is emitted on a mismatch must be the very one that was drawn
            token = torch.where(walking, drawn, token)
            if depth == draft.levels:
                break
            found, node = child_with(draft, current, token)
            walking = walking & found
            if nobody(walking):
                break
            current = torch.where(walking, node, current)
            path[:, depth] = torch.where(walking, node, -1)
            count = count + walking
        return Verdict(path=path, count=count, token=token)
