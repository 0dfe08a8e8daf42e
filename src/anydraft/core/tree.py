"""Trees of draft nodes: depth, ancestors and children, all derived from `parent`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anydraft.core.errors import BadDraft
from anydraft.core.law import Joined
from anydraft.core.noise import nobody
from anydraft.core.records import DISTINCT, INDEPENDENT, Draft


def ancestors(parent: Tensor) -> Tensor:
    """bool[B, N, N]: whether node j is node i itself or above it.

    >>> ancestors(torch.tensor([[-1, 0, 0]])).int().tolist()
    [[[1, 0, 0], [1, 1, 0], [1, 0, 1]]]
    """
    batch, nodes = parent.shape
    # column 0 stands for the context, so that parent -1 needs no special case
    reach = torch.eye(nodes + 1, device=parent.device).repeat(batch, 1, 1)
    reach[:, 1:].scatter_(2, parent[:, :, None] + 1, 1.0)
    for _ in range(nodes.bit_length()):  # each squaring doubles how far up a node sees
        reach = (reach @ reach).clamp_max_(1.0)
    return reach[:, 1:, 1:] > 0


def depths(parent: Tensor) -> Tensor:
    """i64[B, N]: depth of each node, 1 for children of the context.

    >>> depths(torch.tensor([[-1, 0, 0, 2]])).tolist()
    [[1, 2, 2, 3]]
    """
    return ancestors(parent).sum(-1)


def reaches(draft: Draft) -> list[int]:
    """Depth of the deepest live node of each row, on the host."""
    if not draft.nodes:
        return [0] * draft.tokens.shape[0]
    return (depths(draft.parent) * draft.live).amax(1).tolist() if not draft.chain else draft.live.sum(1).tolist()


def child_with(draft: Draft, current: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """The first live child of node `current` i64[B] (-1: the context) that carries `token` i64[B].

    Returns (found bool[B], node i64[B], valid where found).
    """
    hit = draft.live & (draft.parent == current[:, None]) & (draft.tokens == token[:, None])
    return hit.any(-1), hit.to(torch.uint8).argmax(-1)


def by_row(drafts: Sequence[Draft], which: Tensor) -> Draft:
    """One draft whose row b is row b of drafts[which[b]]. A row's nodes keep their numbers, so its decisions are those it would take alone.

    Args:
        drafts: for the same rows. which: i64[B].
    """
    if len(drafts) == 1:
        return drafts[0]
    device, most = drafts[0].tokens.device, max(d.nodes for d in drafts)
    starts = [most * i for i in range(len(drafts))]  # of each draft's laws; a draft has no more laws than nodes
    names = list(dict.fromkeys(name for d in drafts for name in d.proposer))
    place = torch.arange(most, device=device)

    def rows(of: Callable[[Draft, int], Tensor], padding: Tensor) -> Tensor:
        made = padding.expand(len(which), most)
        for i, d in enumerate(drafts):
            wide = torch.cat([of(d, i).to(device), padding.expand(len(which), most)[:, d.nodes :]], 1)
            made = torch.where((which.to(device) == i)[:, None], wide, made)
        return made

    def source(d: Draft, i: int) -> Tensor:
        own = torch.tensor([names.index(name) for name in d.proposer], device=d.tokens.device)
        return own[torch.zeros_like(d.tokens) if d.source is None else d.source]

    laws = [(d.law, start) for d, start in zip(drafts, starts) if d.law is not None]
    return Draft(
        tokens=rows(lambda d, i: d.tokens, torch.zeros_like(place)),
        parent=rows(lambda d, i: d.parent, place - 1),
        live=rows(lambda d, i: d.live, torch.zeros_like(place, dtype=torch.bool)),
        kind=rows(lambda d, i: d.kind, torch.zeros_like(place)),
        index=rows(lambda d, i: torch.where(d.index < 0, -1, d.index + starts[i]), torch.full_like(place, -1)),
        law=Joined(*zip(*laws)) if laws else None,
        levels=max(d.levels for d in drafts),
        chain=all(d.chain for d in drafts),
        proposer=tuple(names),
        source=rows(source, torch.zeros_like(place)),
        forwards=sum(d.forwards for d in drafts),
    )


def check(draft: Draft, width: int) -> None:
    """Raises BadDraft if the records' contract is broken; costs a device sync, so schedules call it when debugging and in tests."""
    if nobody(draft.live) or draft.nodes == 0:
        return
    place = torch.arange(draft.nodes, device=draft.parent.device)
    late = draft.live & (draft.parent >= place)
    if bool(late.any()):
        b, n = late.nonzero()[0].tolist()
        raise BadDraft(f"node {n} of row {b} does not come after its parent", got=int(draft.parent[b, n]), expected=f"-1 <= parent < {n}")
    foreign = draft.live & ((draft.tokens >= width) | (draft.tokens < -1))
    if bool(foreign.any()):
        b, n = foreign.nonzero()[0].tolist()
        raise BadDraft(f"node {n} of row {b} is no token of the target", got=int(draft.tokens[b, n]), expected=f"-1 or 0..{width - 1}")
    drawn = draft.live & ((draft.kind == INDEPENDENT) | (draft.kind == DISTINCT))
    if bool((drawn & (draft.index < 0)).any()) or (draft.law is None and bool(drawn.any())):
        raise BadDraft("a drawn node carries no law", expected="the law it was drawn from, recorded by whoever drew it")
    if draft.chain and not torch.equal(draft.parent, (place - 1).expand_as(draft.parent)):
        raise BadDraft("a draft that says it is a chain is not one", got=draft.parent[0].tolist(), expected="parent[i] = i - 1")
