"""What one target forward of n tokens per row costs, measured on the production path: v(n) of the closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from anydraft.bench.measure import Stopwatch
from anydraft.core.records import DETERMINED, Context, Draft, Request


def step_seconds(target: Any, prompts: Sequence[list[int]], sizes: Sequence[int], repeats: int = 12) -> dict[int, float]:
    """Median seconds of scoring n tokens per row behind the given prompts, for each n; sizes take turns, so drift meets all alike.

    Args:
        target: a `Target`; its slots are used and forgotten afterwards.
        sizes: n counts the context's last token, so n - 1 nodes are drafted.
    """
    requests = [Request(prompt=torch.tensor(p), max_new_tokens=max(sizes) + 1) for p in prompts]
    context = Context.start(requests, max_length=target.max_length)
    target.reset()
    if hasattr(target, "open"):
        target.open(context)
    times: dict[int, list[float]] = {n: [] for n in sizes}
    for turn in range(repeats + 2):
        for n in sizes if turn % 2 else sizes[::-1]:
            draft = _chain(context, n - 1)
            with Stopwatch(getattr(target, "device", "cpu")) as watch:
                scores = target.score(context, draft)
                scores.logits[0, -1, 0].item()
            if turn >= 2:
                times[n].append(watch.seconds)
    target.reset()
    return {n: median(held) for n, held in times.items()}


def _chain(context: Context, nodes: int) -> Draft:
    """Tokens of the prompt over again: what they are does not matter to a dense model's speed."""
    if not nodes:
        return Draft.empty(context.size)
    tokens = torch.stack([row[torch.arange(nodes) % len(row)] for row in (context.row(b) for b in range(context.size))])
    place = torch.arange(nodes).expand_as(tokens)
    return Draft(
        tokens=tokens, parent=place - 1, live=torch.ones_like(tokens, dtype=torch.bool), kind=torch.full_like(tokens, DETERMINED),
        index=torch.full_like(tokens, -1), levels=nodes,
    )  # fmt: skip
