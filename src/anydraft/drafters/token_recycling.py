"""Token recycling: remember the runners-up of every scored node, and unroll that table into a tree.

Source:   Luo et al. 2024, arXiv:2408.08696
Kinds:    determined
Needs:    nothing
Cost:     one gather per level to draft; one top-k of N x V scores per step to learn
Differs:  the table is seeded from nothing else than scored nodes; unseen rows give no nodes instead of token 0;
          one table per request, so that runs do not depend on their order
"""

from __future__ import annotations

import functools
import heapq

import torch
from torch import Tensor

from anydraft.core.records import DETERMINED, Context, Draft, Size, Step
from anydraft.core.roles import Noise


class TokenRecycling:
    """Args:
    vocab_size: V.
    k: runners-up remembered per token.
    decay, stay: the tree's shape; a node whose path has the ranks r1, r2, ... is worth the product of stay * decay ** r.
    """

    kinds = ("determined",)
    chain = False

    def __init__(self, vocab_size: int, k: int = 8, decay: float = 0.45, stay: float = 0.75):
        self.vocab_size, self.k = vocab_size, min(k, vocab_size)
        self.decay, self.stay = decay, stay
        self._table: dict[int, tuple[object, Tensor]] = {}

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`. `size.nodes` is the budget, the shape follows from it."""
        parent, rank, depth = _shape(int(size.nodes.max()), self.k, self.decay, self.stay)
        deepest = max(depth, default=0)
        room = (context.limit - context.length - 1).clamp_min(0) * (size.depth > 0)
        tables = [self._rows(slot, request) for slot, request in zip(context.slot.tolist(), context.requests)]
        root = context.ids.gather(1, context.length[:, None] - 1)
        tokens = torch.full((context.size, 1 + len(parent)), -1, dtype=torch.int64)
        tokens[:, :1] = root
        for level in range(1, deepest + 1):
            here = torch.tensor([n for n, d in enumerate(depth) if d == level])
            above = tokens[:, torch.tensor(parent)[here] + 1]
            ranks = torch.tensor(rank)[here]
            known = torch.stack([table[row.clamp_min(0), ranks] for table, row in zip(tables, above)])
            tokens[:, here + 1] = torch.where(above >= 0, known, -1)
        tokens = tokens[:, 1:]
        level = torch.tensor(depth, dtype=torch.int64).expand_as(tokens)
        live = (tokens >= 0) & (level <= room[:, None]) & (torch.arange(len(parent)) < size.nodes[:, None])
        return Draft(
            tokens=tokens.clamp_min(0),
            parent=torch.tensor(parent, dtype=torch.int64).expand_as(tokens),
            live=live,
            kind=torch.full_like(tokens, DETERMINED),
            index=torch.full_like(tokens, -1),
            levels=deepest,
            chain=False,
        )

    def look(self, context: Context) -> Tensor:
        """i64[B]: 1 where something is known to follow the last token, else 0; for a control that chooses."""
        last = context.ids.gather(1, context.length[:, None] - 1).squeeze(1).tolist()
        tables = [self._rows(slot, request) for slot, request in zip(context.slot.tolist(), context.requests)]
        return torch.tensor([int(table[token, 0] >= 0) for table, token in zip(tables, last)])

    def keep(self, step: Step) -> None:
        """Every scored node teaches, rejected ones too; of equal tokens the accepted node teaches last."""
        top = step.scores.logits.topk(self.k, -1).indices.cpu()  # i64[B, 1 + N, k]
        tokens, live = step.draft.tokens.cpu(), step.draft.live.cpu()
        for b, (slot, request) in enumerate(zip(step.before.slot.tolist(), step.before.requests)):
            table = self._rows(slot, request)
            last = int(step.before.row(b)[-1])
            for node in [n for n in range(step.draft.nodes) if live[b, n]] + [-1] + step.path[b]:
                table[last if node < 0 else int(tokens[b, node])] = top[b, node + 1]
        gone = {slot for slot, end in zip(step.before.slot.tolist(), step.finish) if end is not None}
        self._table = {slot: held for slot, held in self._table.items() if slot not in gone}

    def _rows(self, slot: int, request: object) -> Tensor:
        """i64[V, k] of one request: what followed each token, best first; -1 where nothing was seen."""
        held = self._table.get(slot)
        if held is None or held[0] is not request:
            held = self._table[slot] = (request, torch.full((self.vocab_size, self.k), -1, dtype=torch.int64))
        return held[1]


@functools.lru_cache(maxsize=32)
def _shape(nodes: int, k: int, decay: float, stay: float) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(parent, rank, depth) of the `nodes` best nodes, best first, if a node's worth is the product over its path of stay * decay ** rank."""
    heap: list[tuple[float, tuple[int, ...]]] = [(-stay, (0,))]
    chosen: list[tuple[int, ...]] = []
    while heap and len(chosen) < nodes:
        worth, path = heapq.heappop(heap)
        chosen.append(path)
        heapq.heappush(heap, (worth * stay, (*path, 0)))
        if path[-1] + 1 < k:
            heapq.heappush(heap, (worth * decay, (*path[:-1], path[-1] + 1)))
    # in order of worth, parents come before children and siblings stand by rank; and a smaller budget is a prefix
    place = {path: n for n, path in enumerate(chosen)}
    return tuple(place.get(p[:-1], -1) for p in chosen), tuple(p[-1] for p in chosen), tuple(len(p) for p in chosen)


__all__ = ["TokenRecycling"]
