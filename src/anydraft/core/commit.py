"""The only writer of tokens: verdicts become ids, cut at the exact token where a request ends.

Here is the step's one wait for the device: paths, counts and tokens come to the host in a single transfer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch

from anydraft.core.errors import NonFiniteLogits
from anydraft.core.records import Context, Draft, Scores, Verdict
from anydraft.core.stopping import Stopping


class Committed(NamedTuple):
    """What `commit` did."""

    context: Context
    emitted: torch.Tensor  # i64[B] host
    finish: tuple[str | None, ...]
    path: list[list[int]]  # accepted nodes of each row, before stopping


def commit(context: Context, draft: Draft, scores: Scores, verdict: Verdict, stopping: Sequence[Stopping]) -> Committed:
    """Writes each row's accepted tokens and the target's token behind its ids, one by one, until the request ends.

    Args:
        stopping: one per row of the context, in the same order.
    Raises:
        NonFiniteLogits: a row of the target's logits holds NaN, or nothing finite; nothing was written then.
    """
    rows, poisoned = _to_host(draft, scores, verdict)
    if poisoned:
        raise unusable(context)
    return written(context, rows, stopping)


def unusable(context: Context) -> NonFiniteLogits:
    """What to raise if the target's logits behind this context decide nothing."""
    return NonFiniteLogits(
        "the target model returned logits that are NaN or without any finite value",
        got=f"step {int(context.step.max())}, context of {int(context.length.max())} tokens",
        next_step="Check the checkpoint, or load it in float32",
    )


def written(context: Context, rows: Sequence[tuple[list[int], list[int]]], stopping: Sequence[Stopping]) -> Committed:
    """`commit`, where accepted nodes and tokens to emit are known on the host already, and the logits were found to be usable.

    Args:
        rows: accepted nodes and tokens of each row; stopping: as for `commit`.
    """
    ends, limits = context.length.tolist(), context.limit.tolist()
    emitted, finish = [0] * context.size, []
    for b, (nodes, tokens) in enumerate(rows):
        start, ending = ends[b], stopping[b]
        # ids behind `length` mean nothing, so all may be written before it is known which one is the last
        room = context.ids[b, start : start + len(tokens)]
        room.copy_(torch.tensor(tokens[: len(room)], dtype=torch.int64))
        for n, token in enumerate(tokens, 1):
            ends[b], emitted[b] = start + n, n
            if ending.push(token, lambda b=b, end=start + n: context.ids[b : b + 1, :end], start + n >= limits[b]):
                break
        finish.append(ending.finish)
    length = torch.tensor(ends, dtype=torch.int64)
    after = dataclasses.replace(context, length=length, committed=length, step=context.step + 1)
    return Committed(after, torch.tensor(emitted, dtype=torch.int64), tuple(finish), [nodes for nodes, _ in rows])


def _to_host(draft: Draft, scores: Scores, verdict: Verdict) -> tuple[list[tuple[list[int], list[int]]], bool]:
    """(accepted nodes, tokens to emit) of each row, and whether any logits were unusable."""
    path = verdict.path
    picked = draft.tokens.gather(1, path.clamp_min(0)) if draft.nodes and path.shape[1] else path
    parts = [verdict.count[:, None], verdict.token[:, None], _poisoned(draft, scores)[:, None].long(), path, picked]
    if path.device.type == "cpu":  # nothing to wait for
        listed = [part.tolist() for part in parts]
    else:
        rows, wide = torch.cat(parts, 1).tolist(), path.shape[1]
        listed = [[row[at:end] for row in rows] for at, end in ((0, 1), (1, 2), (2, 3), (3, 3 + wide), (3 + wide, 3 + 2 * wide))]
    chosen = [
        (nodes[:count], tokens[:count] + [token] if token >= 0 else tokens[:count])
        for (count,), (token,), _, nodes, tokens in zip(*listed)
    ]  # fmt: skip
    return chosen, any(poison for (poison,) in listed[2])


def _poisoned(draft: Draft, scores: Scores) -> torch.Tensor:
    """bool[B]: rows with a live node, or a root, whose logits hold NaN or nothing finite."""
    largest = scores.logits.amax(-1)
    spoilt = ~torch.isfinite(largest)
    live = torch.nn.functional.pad(draft.live.to(largest.device), (1, 0), value=True)
    return (spoilt & live[:, : largest.shape[1]]).any(1)  # a last node may come without a row
