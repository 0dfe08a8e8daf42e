"""What the slots hold, as the host knows it: each row's ids, and the draft nodes that stand behind them.

Nobody tells the engine what was accepted. It finds out from the ids alone: the common prefix with what is cached, then a walk along the nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anydraft.core.records import Request


class Row:
    """What one request has in the cache, on the host."""

    __slots__ = ("slot", "request", "ids", "length", "known")

    def __init__(self, slot: int):
        self.slot = slot
        self.request: Request | None = None
        self.ids = torch.empty(0, dtype=torch.int64)  # a copy of the ids that are cached, first `length` of them
        self.length = 0
        self.known = 0  # ids known to agree with every later context of the same request

    def write(self, ids: Tensor, start: int, end: int) -> None:
        """Copies ids [start, end): callers may rewrite their own buffers."""
        if end > len(self.ids):
            self.ids = torch.nn.functional.pad(self.ids, (0, max(end, 2 * len(self.ids), 64) - len(self.ids)))
        self.ids[start:end] = ids[start:end]


def common_prefix(held: Tensor, ids: Tensor, start: int, end: int) -> int:
    """Length of the longest common prefix of two id buffers, given that they agree up to `start`."""
    if end <= start:
        return max(0, min(start, end))
    differ = held[start:end] != ids[start:end]
    return start + int(differ.to(torch.uint8).argmax()) if bool(differ.any()) else end


class Tree:
    """The nodes that stand in slots behind each row's context, in the parts in which they came."""

    __slots__ = ("base", "parts", "nodes", "is_chain")

    def __init__(self, base: list[int], parts: list[tuple[Tensor, Tensor]], is_chain: bool = True):
        """base: where each row's first node stands. parts: (tokens, parent), i64[B, M] each; parent is on the host."""
        self.base, self.parts, self.is_chain = base, parts, is_chain
        self.nodes = sum(tokens.shape[1] for tokens, _ in parts)

    @property
    def parent(self) -> Tensor:
        """i64[B, N] on the host: each node's parent among the nodes, -1 for the last committed token."""
        return torch.cat([parent for _, parent in self.parts], 1)

    def rows(self, order: list[int]) -> Tree:
        """The trees of these rows; -1 is a row that had none."""
        if not self.nodes:
            return self
        at = torch.tensor([max(0, i) for i in order])
        base = [self.base[i] if i >= 0 else -1 for i in order]
        return Tree(base, [(tokens[at.to(tokens.device)], parent[at]) for tokens, parent in self.parts], self.is_chain)

    def grown(self, tokens: Tensor, parent: Tensor) -> Tree:
        """With another part behind the last one."""
        one_more = tokens.shape[1] == 1 and all(above == self.nodes - 1 for (above,) in parent.tolist())
        return Tree(self.base, [*self.parts, (tokens, parent)], self.is_chain and one_more)

    def host(self) -> HostTree:
        """The same as plain lists, to be walked."""
        return HostTree(torch.cat([tokens for tokens, _ in self.parts], 1).tolist(), self.parent.tolist())


class HostTree:
    """Nodes of every row as lists."""

    __slots__ = ("tokens", "parent")

    def __init__(self, tokens: list[list[int]], parent: list[list[int]]):
        self.tokens, self.parent = tokens, parent

    def walk(self, b: int, ids: list[int]) -> list[int]:
        """Nodes of row b along these ids, from the root as far as the tree goes.

        Padding needs no care: whatever a node's token is, its keys and values are those of that token on its path.
        """
        path: list[int] = []
        current = -1
        for token in ids:
            found = [n for n, (t, p) in enumerate(zip(self.tokens[b], self.parent[b])) if p == current and t == token]
            if not found:
                break
            current = found[0]
            path.append(current)
        return path
