"""Speculative sampling: accept each draft token with probability min(1, p/q), else draw from what q left of p.

Source:   Leviathan et al. 2023, arXiv:2211.17192, Alg. 1; Chen et al. 2023, arXiv:2302.01318, Alg. 2
Keeps:    law
Judges:   token            chains of determined and independent nodes
Noise:    fresh
Cost:     one f[B, V] row of p per judged token, one of q per step
Differs:  nothing          a determined token is the case q = one-hot; an empty draw is refused and its law subtracted
"""

from __future__ import annotations

import torch

from anydraft.core.law import proposal_at, remainder
from anydraft.core.noise import nobody
from anydraft.core.records import Draft, Scores, Verdict
from anydraft.core.roles import Noise


class SpeculativeSampling:
    """Accepts each position with probability 1 - TV(p, q), the best for one drafted token considered alone."""

    kinds = ("determined", "independent")
    chain = True

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """Args: a chain of N nodes. Returns the accepted prefix and the recovered or the bonus token."""
        batch, nodes = draft.tokens.shape
        device = draft.tokens.device
        open_ = torch.ones(batch, dtype=torch.bool, device=device)
        count = torch.zeros(batch, dtype=torch.int64, device=device)
        for i in range(nodes):
            asked = open_ & draft.live[:, i]
            if nobody(asked):
                break
            p, q = scores.law.at(i, draft.tokens[:, i]), proposal_at(draft, i)
            open_ = noise.bernoulli(p / q.clamp_min(torch.finfo(q.dtype).tiny), asked, "accept", i)
            count = count + open_
        rows = scores.logits.shape[1]  # a parallel schedule has none behind its last node
        node = refused = None
        if nodes:
            node = count.clamp_max(nodes - 1)
            refused = (count < nodes) & draft.live.gather(1, node[:, None]).squeeze(1)
            refused = None if nobody(refused) else refused
        law = remainder(scores.law, count.clamp_max(rows - 1), draft, node, refused)
        token = noise.categorical(law, 0, count < rows, "target", 0)
        path = torch.arange(nodes, device=device).expand(batch, nodes)
        return Verdict(path=torch.where(path < count[:, None], path, -1), count=count, token=token)
