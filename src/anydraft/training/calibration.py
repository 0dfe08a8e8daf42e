"""The target's mean law, measured on what the target itself writes: which tokens a drafter must have, and where its mass should go.

Source: redistributing drafter kernels, arXiv:2506.03206 (mean target probability); FR-Spec, arXiv:2502.14856 (frequencies).

The mean of laws is used and not the count of drawn tokens: it has the same expectation, and rare tokens need far fewer texts. Corpora that the target
did not write, and temperatures that will not be served, rank the tokens wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from anydraft.core.records import Step
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.pruning import HeadStatistics, PrunedHead, prune, required_ids

SHARES = (0.75, 0.5, 0.25, 0.1, 0.05)
"""Shares of a vocabulary whose coverage is shown."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the target's mass a part of its vocabulary holds."""

    asked: float | None  # the share that was asked for, None for a head that was read
    tokens: int
    mass: float  # in [0, 1]: the ceiling of a drafter's acceptance that proposes nothing else


def measured(steps: Iterable[Step], width: int) -> HeadStatistics:
    """Adds up the law after every context of a run of plain decoding, as the request's temperature and processors shape it.

    Args:
        steps: of a run without drafts. width: V.
    """
    found = HeadStatistics(width)
    for step in steps:
        found.add(step.scores.law.rows(0))
    return found


def coverage(mean: Tensor, vocabulary: ByteVocabulary, shares: Iterable[float] = SHARES) -> list[Coverage]:
    """What `prune` keeps of f[V] at each share, the tokens that no pruning may drop included."""
    required = required_ids(vocabulary)
    return [covered(mean, prune(mean, share, required), share) for share in shares]


def covered(mean: Tensor, head: PrunedHead, asked: float | None = None) -> Coverage:
    """The mass of the mean law f[V] on a head's tokens."""
    return Coverage(asked, len(head.ids), float(mean[head.ids].sum() / mean.sum()))


def passages(texts: list[list[int]], count: int, length: int) -> list[Tensor]:
    """`count` prompts of at most `length` ids, cut from texts (ids of the target) at even distances; fewer where there is not so much text.

    >>> [p.tolist() for p in passages([[1, 2, 3, 4, 5, 6], [7]], 3, 2)]
    [[1, 2], [4, 5], [7]]
    """
    total = sum(map(len, texts))
    made = []
    for ids in texts:
        mine = max(1, count * len(ids) // max(1, total)) if ids else 0
        distance = max(length, len(ids) // max(1, mine))
        made += [torch.tensor(ids[at : at + length], dtype=torch.int64) for at in range(0, len(ids), distance)][: max(1, mine)]
    return made[:count]
