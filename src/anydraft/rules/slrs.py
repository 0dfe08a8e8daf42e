"""String-level rejection sampling, the rule: accept with probability min(1, p/psi), and ask for as little of psi as a rejection allows.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 3
Keeps:    law
Judges:   chain            determined and independent nodes, where asking for q at a token is cheap and for all of q is not
Noise:    fresh
Cost:     q at each judged token, and at 1 / (1 - acceptance) tokens after a rejection; all of q on p's support after `cap` of them
Differs:  after a rejection tokens of p are drawn until one is kept, each with probability 1 - min(1, q/p), which draws from max(p - q, 0)
          without knowing it all; after `cap` draws the residual is made in full. An empty draw is refused, its law subtracted
"""

from __future__ import annotations

import torch
from torch import Tensor

from anydraft.core.errors import BadOption
from anydraft.core.law import Dense, proposal_rows, residual
from anydraft.core.noise import nobody
from anydraft.core.records import DETERMINED, Draft, Scores, Verdict
from anydraft.core.roles import Noise


class SLRS:
    """Speculative sampling with a lazy residual.

    Args:
        cap: most draws after a rejection before the residual is made in full; any number is exact.
    """

    kinds = ("determined", "independent")
    chain = True

    def __init__(self, cap: int = 64):
        if cap < 0:
            raise BadOption("cap is not usable", got=cap, expected="an integer >= 0")
        self.cap = cap

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """Args: a chain of N nodes. Returns the accepted prefix and the recovered or the bonus token."""
        batch, nodes = draft.tokens.shape
        device = scores.logits.device
        tokens, live = draft.tokens.to(device), draft.live.to(device)
        open_ = torch.ones(batch, dtype=torch.bool, device=device)
        count = torch.zeros(batch, dtype=torch.int64, device=device)
        for i in range(nodes):
            asked = open_ & live[:, i]
            if nobody(asked):
                break
            p = scores.law.at(i, tokens[:, i])
            doubtful = asked & (p > 0) & (p < 1)  # no q decides otherwise where p is 0 or 1
            q = _proposed(draft, i, torch.where(doubtful, tokens[:, i], -1))
            prob = torch.where(doubtful, p / q.clamp_min(torch.finfo(q.dtype).tiny), p.to(q.dtype))
            open_ = noise.bernoulli(prob, asked, "accept", i)
            count = count + open_
        rows = scores.logits.shape[1]  # a parallel schedule has none behind its last node
        law = scores.law.rows(count.clamp_max(rows - 1))
        token = torch.full_like(count, -1)
        if nodes:
            node = count.clamp_max(nodes - 1)
            refused = (count < nodes) & live.gather(1, node[:, None]).squeeze(1)
            token, law = self._recovered(draft, node, law, refused, noise)
        rest = noise.categorical(Dense(law[:, None]), 0, (token < 0) & (count < rows), "target", 0)
        path = torch.arange(nodes, device=device).expand(batch, nodes)
        return Verdict(path=torch.where(path < count[:, None], path, -1), count=count, token=torch.where(token < 0, rest, token))

    def _recovered(self, draft: Draft, node: Tensor, law: Tensor, refused: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """(i64[B] tokens drawn from what q left of p where refused, -1 where that took more than `cap` draws; f[B, V] the laws to draw the
        others from)."""
        token = torch.full_like(node, -1)
        pending = refused & (law.amax(-1) < 1)  # of a certain token nothing else can be left
        for j in range(self.cap):
            if not bool(pending.any()):
                return token, law
            drawn = noise.categorical(Dense(law[:, None]), 0, pending, "retry", j)
            p = law.gather(1, drawn.clamp_min(0)[:, None]).squeeze(1)
            share = _proposed(draft, node, drawn) / p.clamp_min(torch.finfo(p.dtype).tiny)
            kept = noise.bernoulli(1 - share.clamp_max(1), pending, "keep", j)
            token = torch.where(kept, drawn, token)
            pending = pending & ~kept
        if bool(pending.any()):
            left = residual(law, _proposed_among(draft, node, (law > 0) & pending[:, None]))
            law = torch.where(pending[:, None], left, law)
        return token, law


def _at(values: Tensor, node: Tensor | int) -> Tensor:
    return values[:, node] if isinstance(node, int) else values.gather(1, node.to(values.device)[:, None]).squeeze(1)


def _proposed(draft: Draft, node: Tensor | int, token: Tensor) -> Tensor:
    """f[B]: probability with which node (int or i64[B]) could have come out as token i64[B]; 0, and nothing asked, for token -1."""
    point = (_at(draft.kind, node) == DETERMINED).to(token.device)
    hit = (_at(draft.tokens, node).to(token.device) == token) & (token >= 0)
    if draft.law is None:
        return hit.double()
    asked = torch.where(point, -1, token).to(draft.tokens.device)
    drawn = draft.law.at(_at(draft.index, node).clamp_min(0), asked).to(token.device)
    return torch.where(point, hit.to(drawn.dtype), drawn)


def _proposed_among(draft: Draft, node: Tensor, wanted: Tensor) -> Tensor:
    """f[B, V]: the law of each row's node, on the tokens in wanted bool[B, V] at least."""
    among = getattr(draft.law, "among", None)
    if among is None:
        return proposal_rows(draft, node.to(draft.tokens.device), wanted.shape[1]).to(wanted.device)
    point = (_at(draft.kind, node) == DETERMINED).to(wanted.device)
    drawn = among(_at(draft.index, node).clamp_min(0), wanted & ~point[:, None])
    hit = torch.zeros_like(drawn).scatter_(1, _at(draft.tokens, node).to(wanted.device).clamp_min(0)[:, None], 1.0)
    return torch.where(point[:, None], hit, drawn)


__all__ = ["SLRS"]
