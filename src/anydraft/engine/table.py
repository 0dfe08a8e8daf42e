"""Toy models whose law is a table: small enough that every possible run can be enumerated.

Logits are a pure function of (seed, the whole context), so that a mistake about the context changes the law and is seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anydraft.core.noise import hashed
from anydraft.core.processors import Laws
from anydraft.core.records import Context, Draft, Scores


class TableModel:
    """A target and a drafting model over `vocab_size` tokens, in float64.

    Args:
        spread: scale of the random logits; 0 is uniform.
        window: how many of the last ids the law looks at; None: all of them.
        bias: added to the logits, f64[V]; -inf removes a token.
    """

    def __init__(self, vocab_size: int, seed: int = 0, spread: float = 1.0, window: int | None = None, bias: Tensor | None = None):
        self.vocab_size, self.seed, self.spread, self.window = vocab_size, seed, spread, window
        self.max_length: int | None = None
        self.bias = bias
        self.forwards = 0
        self.device = torch.device("cpu")
        self._laws = Laws()
        self._held: dict[tuple[int, ...], Tensor] = {}

    def reset(self) -> None:
        """Forgets the requests."""
        self._laws = Laws()

    def logits(self, ids: list[int]) -> Tensor:
        """f64[V] after these ids."""
        seen = tuple(ids if self.window is None else ids[-self.window :])
        if seen not in self._held:
            parts = hashed(self.seed, len(seen), *seen, np.arange(self.vocab_size))
            uniform = ((parts >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            row = torch.from_numpy(np.log(uniform / (1 - uniform))) * self.spread
            self._held[seen] = row if self.bias is None else row + self.bias
        return self._held[seen]

    def score(self, context: Context, draft: Draft) -> Scores:
        """See `Target.score`."""
        self.forwards += 1
        rows = []
        for b in range(context.size):
            prefixes = [context.row(b).tolist()]
            for token, parent in zip(draft.tokens[b].tolist(), draft.parent[b].tolist()):
                prefixes.append(prefixes[parent + 1] + [max(0, token)])
            rows.append(torch.stack([self.logits(p) for p in prefixes]))
        logits = torch.stack(rows)
        return Scores(law=self._laws.of(logits, context, draft), logits=logits)

    def plain(self, context: Context) -> Tensor | None:
        """Rows that must not speculate; see `Laws.plain`."""
        return self._laws.plain(context)

    def next(self, context: Context) -> Tensor:
        """See `Model.next`."""
        self.forwards += 1
        self._prefixes = [[context.row(b).tolist()] for b in range(context.size)]
        return torch.stack([self.logits(p[0]) for p in self._prefixes])

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Model.grow`."""
        self.forwards += 1
        for prefixes, new, above in zip(self._prefixes, tokens.tolist(), parent.tolist()):
            for t, p in zip(new, above):
                prefixes.append(prefixes[p + 1] + [t])
        new = tokens.shape[1]
        return torch.stack([torch.stack([self.logits(p) for p in prefixes[-new:]]) for prefixes in self._prefixes])
