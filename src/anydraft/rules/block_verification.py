"""Block verification: decide the accepted length of a drafted chain jointly, never shorter in expectation than token by token.

Source:   Sun et al. 2024, arXiv:2403.10444, Alg. 2
Keeps:    law
Judges:   block            chains of determined and independent nodes
Noise:    fresh
Cost:     one f[B, V] row of p and of q per drafted token
Differs:  nothing          rows of unequal length end at their own last node; an empty draw is a symbol that p never emits
"""

from __future__ import annotations

import torch

from anydraft.core.law import Dense, proposal_at, proposal_rows
from anydraft.core.records import Draft, Scores, Verdict
from anydraft.core.roles import Noise


class BlockVerification:
    """Optimal in expected accepted length among rules that see one chain."""

    kinds = ("determined", "independent")
    chain = True

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """Args: a chain of N nodes. Returns the accepted prefix and the recovered or the bonus token."""
        batch, nodes = draft.tokens.shape
        device, width = draft.tokens.device, scores.law.width
        last = draft.live.sum(1)  # gamma of each row
        p = scores.law.rows(0)
        weight = torch.ones(batch, dtype=p.dtype, device=device)  # c_i, the joint ratio capped at 1
        count = torch.zeros(batch, dtype=torch.int64, device=device)
        left, chosen = weight.clone(), p  # c and p at the accepted length
        for i in range(nodes):
            asked = draft.live[:, i]
            ratio = p.gather(1, draft.tokens[:, i, None].clamp_min(0)).squeeze(1) / proposal_at(draft, i).to(p.dtype).clamp_min(
                torch.finfo(p.dtype).tiny
            )
            weight = torch.where(draft.tokens[:, i] >= 0, (weight * ratio).clamp_max(1.0), torch.zeros_like(weight))
            p = scores.law.rows(i + 1)
            final = last == i + 1
            prob = weight
            if i + 1 < nodes:
                rest = (weight[:, None] * p - proposal_rows(draft, i + 1, width).to(p.dtype)).clamp_min(0).sum(-1)
                room = rest + 1 - weight
                # 0/0 where the chain so far is certain and the next law equals p: any choice is exact there, accepting is longest
                share = torch.where(room > 0, rest / room.clamp_min(torch.finfo(p.dtype).tiny), torch.ones_like(rest))
                prob = torch.where(final, weight, share)
            accepted = noise.bernoulli(prob, asked, "accept", i)  # all are examined: the longest accepted prefix wins
            count = torch.where(accepted, i + 1, count)
            left = torch.where(accepted, weight, left)
            chosen = torch.where(accepted[:, None], p, chosen)
        if nodes:
            rest = (left[:, None] * chosen - proposal_rows(draft, count.clamp_max(nodes - 1), width).to(p.dtype)).clamp_min(0)
            usable = (count < last) & (rest.sum(-1) > 0)
            chosen = torch.where(usable[:, None], rest / rest.sum(-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny), chosen)
        token = noise.categorical(Dense(chosen[:, None]), 0, torch.ones_like(draft.live.any(1)), "target", 0)
        path = torch.arange(nodes, device=device).expand(batch, nodes)
        return Verdict(path=torch.where(path < count[:, None], path, -1), count=count, token=token)
