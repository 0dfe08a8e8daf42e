"""Draws a chain or a tree from a drafting model, and records the law that each node was drawn from.

Source: chains: Leviathan et al. 2023, arXiv:2211.17192; distinct siblings: Jeon et al. 2024 (RSD-C), arXiv:2402.14160.

A control is asked only after a level was kept: a rule of stopping that discards a drawn token would bias the output.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anydraft.core.law import Dense, Joined, Law, Point, Subset, without
from anydraft.core.noise import nobody
from anydraft.core.processors import drafting_law
from anydraft.core.records import DETERMINED, DISTINCT, INDEPENDENT, KINDS, Context, Draft, Level, Request, Size, always
from anydraft.core.roles import Model, Noise


@dataclass(frozen=True, slots=True)
class Reading:
    """How a drafting model's columns, the tokens that are drawn and the ids that it is fed relate. As it stands: all three are the same ids."""

    law: Callable[[Tensor, Sequence[Request]], Law] = drafting_law  # logits f[B, U] -> the law to draw from
    column: Callable[[Tensor], Tensor] | None = None  # drawn token i64[B] >= 0 -> its column in the logits, -1 if it has none
    fed: Callable[[Tensor], Tensor] | None = None  # drawn token i64[B] >= 0 -> what `grow` takes, -1 where the chain must end


def draw_chain(
    model: Model, context: Context, size: Size, noise: Noise, *, own: Context | None = None, reading: Reading | None = None
) -> Draft:
    """One path of at most `size.depth` tokens per row.

    Args:
        context: the target's; its requests say how to draw, and the control is asked about it.
        own: the same text in the drafter's ids; None if it has the target's.
        reading: how to read the model's logits.
    Returns:
        A chain of independent nodes in the ids that the reading's law is over, N = the deepest row's depth.
    """
    reading = reading or Reading()
    depth = size.depth
    deepest = int(depth.max())
    if deepest <= 0:
        return Draft.empty(context.size)
    logits = model.next(own or context)
    device, reach = logits.device, depth.to(logits.device)
    live = reach > 0
    tokens, lives, laws = [], [], []
    while True:
        level = len(tokens)
        law = reading.law(logits, context.requests)
        token = noise.categorical(law, 0, live, "draft", level)
        tokens.append(token)
        lives.append(live)
        laws.append(law)
        if level + 1 == deepest:
            break
        fed = token if reading.fed is None else torch.where(token >= 0, reading.fed(token.clamp_min(0)), -1)
        live = live & (reach > level + 1) & (fed >= 0)
        if size.go_on is not always:
            live = live & size.go_on(context, _level(level + 1, token, logits, live, model, reading)).to(device)
        if nobody(live):
            break
        logits = model.grow(fed.clamp_min(0)[:, None], torch.full((context.size, 1), level - 1))[:, 0]
    return _chain(tokens, lives, laws, forwards=len(tokens))


def _level(depth: int, token: Tensor, logits: Tensor, live: Tensor, model: Model, reading: Reading | None = None) -> Level:
    column = token if reading is None or reading.column is None else reading.column(token.clamp_min(0))
    prob = (logits.gather(1, column.clamp_min(0)[:, None]).squeeze(1) - logits.logsumexp(-1)).exp()
    prob = torch.where(column >= 0, prob, torch.zeros_like(prob))
    return Level(depth=depth, token=token, prob=prob, logits=logits, live=live, hidden=getattr(model, "hidden", None))


def stacked(laws: Sequence[Law]) -> Law:
    """One law of R rows from R laws of one row."""
    if len(laws) == 1:
        return laws[0]
    points = [law for law in laws if isinstance(law, Point)]
    if len(points) == len(laws):
        return Point(torch.cat([law.ids for law in points], 1), points[0].width, points[0].dtype)
    subsets = [law for law in laws if isinstance(law, Subset)]
    if len(subsets) == len(laws) and all(law.ids is subsets[0].ids for law in subsets):
        return Subset(subsets[0].ids, torch.cat([law.probs for law in subsets], 1), subsets[0].width)
    if all(isinstance(law, (Dense, Point)) for law in laws):
        return Dense(torch.stack([law.rows(0) for law in laws], 1))
    return Joined(laws, range(len(laws)))


def _chain(tokens: list[Tensor], lives: list[Tensor], laws: list[Law], forwards: int) -> Draft:
    ids = torch.stack(tokens, 1)
    place, parent, kind = _places(*ids.shape, ids.device)
    return Draft(
        tokens=ids.clamp_min(0),
        parent=parent,
        live=torch.stack(lives, 1),
        kind=kind,
        index=place,
        law=stacked(laws),
        levels=ids.shape[1],
        forwards=forwards,
    )


@functools.lru_cache(maxsize=256)
def _places(rows: int, nodes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Places, parents and kinds of a chain; never written to, so shared by all of a size."""
    with torch.inference_mode(False):  # what is kept must serve callers outside such a mode as well
        place = torch.arange(nodes, device=device).expand(rows, nodes)
        return place, place - 1, torch.full_like(place, INDEPENDENT)


def determined_chain(found: list[list[int]], forwards: int = 0) -> Draft:
    """One determined path per row, given as ids on the host."""
    deepest = max(map(len, found))
    if not deepest:
        return dataclasses.replace(Draft.empty(len(found)), forwards=forwards)
    tokens = torch.tensor([row + [0] * (deepest - len(row)) for row in found], dtype=torch.int64)
    place = torch.arange(deepest).expand_as(tokens)
    return Draft(
        tokens=tokens,
        parent=place - 1,
        live=place < torch.tensor([[len(row)] for row in found]),
        kind=torch.full_like(tokens, DETERMINED),
        index=torch.full_like(tokens, -1),
        levels=deepest,
        forwards=forwards,
    )


@dataclass(frozen=True, slots=True)
class Branching:
    """A tree in which every node of level i has `width[i]` children of one kind.

    determined: the most likely tokens. independent: drawn from the node's law, repeats allowed. distinct: drawn without repeats.
    """

    width: tuple[int, ...]
    kind: str = "distinct"


def draw_tree(model: Model, context: Context, size: Size, noise: Noise, shape: Branching, *, own: Context | None = None) -> Draft:
    """A tree of the given shape, cut to `size.depth` levels and `size.nodes` nodes.

    The shape is fixed before anything is drawn; the control may end a row after a kept level, and is asked about its first path.
    Where a request drafts at temperature 0, drawing would give one child only: its children are the most likely tokens, determined.
    """
    depth = size.depth
    if not bool((depth > 0).any()) or not shape.width:
        return Draft.empty(context.size)
    logits = model.next(own or context)[:, None]  # f[B, M, U]: one row per node of the last level, the root at first
    device, reach = logits.device, depth.to(logits.device)
    grown = _Growing(context, shape.kind, device, int(size.nodes.max()))
    parents, live = [-1], (reach > 0)[:, None]
    forwards = 1
    for level, width in enumerate(shape.width[: int(depth.max())]):
        start = grown.count
        grown.add_level(logits, parents, live, width, size.nodes.to(device), noise)
        parents = list(range(start, grown.count))
        if level + 1 == min(len(shape.width), int(depth.max())) or grown.count >= int(size.nodes.max()):
            break
        live = torch.stack(grown.lives[start:], 1)
        further = reach > level + 1
        seen = _level(level + 1, grown.tokens[start], logits[:, 0], live[:, 0] & further, model)
        asked = further & size.go_on(context, seen).to(device)
        live = live & asked[:, None]
        if nobody(live):
            break
        above = torch.tensor([grown.parent[p] for p in parents]).expand(context.size, -1)
        logits = model.grow(torch.stack(grown.tokens[start:], 1), above)
        forwards += 1
    return grown.draft(forwards)


class _Growing:
    """Columns of a tree while it is drawn. Every row has the same shape; `live` says which nodes a row has."""

    def __init__(self, context: Context, kind: str, device: torch.device, most: int):
        self.requests, self.kind, self.device = context.requests, KINDS[kind], device
        point = [(r.temperature if r.draft_temperature is None else r.draft_temperature) == 0 for r in context.requests]
        point = [here or self.kind == DETERMINED for here in point]
        self.point = torch.tensor(point, device=device)  # bool[B] rows whose children are determined
        self.some_point, self.all_point, self.most = any(point), all(point), most  # known here, so that nobody waits for the device to say so
        self.tokens: list[Tensor] = []
        self.lives: list[Tensor] = []
        self.parent: list[int] = []
        self.source: list[int] = []  # which of `laws` a node was drawn from
        self.laws: list[Law] = []
        self.depth = 0

    @property
    def count(self) -> int:
        return len(self.tokens)

    def add_level(self, logits: Tensor, parents: list[int], live: Tensor, width: int, budget: Tensor, noise: Noise) -> None:
        """Adds `width` children to each of `parents`, whose next-token logits are f[B, M, U], while the budget i64[B] lasts."""
        self.depth += 1
        for m, parent in enumerate(parents):
            fan = min(width, self.most - self.count, logits.shape[-1])
            if fan > 0:
                self._children(logits[:, m], parent, live[:, m], fan, budget, noise)

    def _children(self, logits: Tensor, parent: int, live: Tensor, fan: int, budget: Tensor, noise: Noise) -> None:
        best = logits.topk(fan, -1).indices if self.some_point else None
        law = drafting_law(logits, self.requests)
        self.laws.append(law)
        row = law.rows(0)
        tried = torch.zeros_like(row, dtype=torch.bool)
        for j in range(fan):
            left = without(row, tried) if self.kind == DISTINCT and j else row
            here = live & (budget > self.count)  # nodes are numbered alike in every row, so a row's tree is its own
            asked = here & ~self.point & (left.sum(-1) > 0)  # fewer children where the law's support is used up
            token = noise.categorical(Dense(left[:, None]), 0, asked, "draft", self.count)
            tried = tried.scatter(1, token.clamp_min(0)[:, None], True)
            if best is not None:
                token = torch.where(self.point, best[:, j], token)
            self.tokens.append(token.clamp_min(0))
            self.lives.append(asked | (here & self.point))
            self.parent.append(parent)
            self.source.append(len(self.laws) - 1)

    def draft(self, forwards: int) -> Draft:
        batch = len(self.requests)
        place = torch.tensor(self.source, device=self.device).expand(batch, -1)
        kind = torch.where(self.point, DETERMINED, self.kind)[:, None].expand(batch, self.count)
        return Draft(
            tokens=torch.stack(self.tokens, 1),
            parent=torch.tensor(self.parent, device=self.device).expand(batch, -1),
            live=torch.stack(self.lives, 1),
            kind=kind,
            index=torch.where(kind == DETERMINED, -1, place),
            law=None if self.all_point else stacked(self.laws),
            levels=self.depth,
            chain=self.parent == list(range(-1, self.count - 1)),
            forwards=forwards,
        )
