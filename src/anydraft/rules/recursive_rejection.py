"""Recursive rejection: judge the children of a node one after another against what the earlier ones left of p.

Source:   SpecInfer, Miao et al. 2023, arXiv:2305.09781, Alg. 2 (independent); RSD, Jeon et al. 2024, arXiv:2402.14160 (distinct)
Keeps:    law
Judges:   tree             determined, independent and distinct children, mixed
Noise:    fresh
Cost:     one f[B, V] row of p per accepted token, one of q per child that is judged
Differs:  one rule for every kind: the lemma min(r, h) + max(r - h, 0) = r holds for whatever law h each child was drawn from
"""

from __future__ import annotations

import torch
from torch import Tensor

from anydraft.core.law import Dense, proposal_rows, residual, without
from anydraft.core.noise import nobody
from anydraft.core.records import DISTINCT, Draft, Scores, Verdict
from anydraft.core.roles import Noise


class RecursiveRejection:
    """Exact if siblings stand in draw order and each carries the law that it was drawn from."""

    kinds = ("determined", "independent", "distinct")
    chain = False

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """Args: a tree of N nodes. Returns the path of at most `draft.levels` nodes and the target's next token."""
        batch, nodes = draft.tokens.shape
        device, width = draft.tokens.device, scores.law.width
        current = torch.full((batch,), -1, dtype=torch.int64, device=device)
        count = torch.zeros_like(current)
        path = torch.full((batch, draft.levels), -1, dtype=torch.int64, device=device)
        left = scores.law.rows(0)
        tried = torch.zeros(batch, width, dtype=torch.bool, device=device)
        for i in range(nodes):  # topological order: a node's children come after it, siblings in draw order
            asked = draft.live[:, i] & (draft.parent[:, i] == current)
            if nobody(asked):
                continue
            token = draft.tokens[:, i]
            law = _proposal(draft, i, tried, width).to(left.dtype)
            here = token.clamp_min(0)[:, None]
            ratio = left.gather(1, here) / law.gather(1, here).clamp_min(torch.finfo(left.dtype).tiny)
            prob = torch.where(token >= 0, ratio.squeeze(1), torch.zeros_like(ratio.squeeze(1)))
            accepted = noise.bernoulli(prob, asked, "accept", i)
            refused = asked & ~accepted
            left = torch.where(refused[:, None], residual(left, law), left)
            tried = tried.scatter(1, here, tried.gather(1, here) | (refused & (token >= 0))[:, None])
            if nobody(accepted):
                continue
            current = torch.where(accepted, i, current)
            place = count.clamp_max(draft.levels - 1)[:, None]
            path = path.scatter(1, place, torch.where(accepted[:, None], i, path.gather(1, place)))
            count = count + accepted
            left = torch.where(accepted[:, None], scores.law.rows(current + 1), left)
            tried = tried & ~accepted[:, None]
        token = noise.categorical(Dense(left[:, None]), 0, torch.ones_like(current, dtype=torch.bool), "target", 0)
        return Verdict(path=path, count=count, token=token)


def _proposal(draft: Draft, node: int, tried: Tensor, width: int) -> Tensor:
    """f[B, V]: the law that this node was drawn from, given its earlier siblings."""
    law = proposal_rows(draft, node, width)
    return torch.where((draft.kind[:, node] == DISTINCT)[:, None], without(law, tried), law)
