"""Differences that are nobody's fault: the tie audit of testing/ties.py, for the rounds of a benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anydraft.bench.measure import Audit, Job
from anydraft.core.records import Request
from anydraft.speculator import Speculator
from anydraft.testing.ties import audit


def tie_audit(plain: Callable[[], Speculator]) -> Audit:
    """Asks the target itself, with other shapes of the same forward, whether it could have taken either token."""

    def ask(job: Job, expected: list[list[int]], found: list[list[int]]) -> int | None:
        request = Request(prompt=torch.tensor(job.prompts[0]), max_new_tokens=job.max_new_tokens)
        try:
            return sum(one.explained for one in audit(plain().model, job.prompts, expected, found, request))
        except RuntimeError:  # its forwards are larger than those of decoding, and may not fit
            return None

    return ask


def explained(diverged: list[int], tied: int | None) -> bool:
    """Whether every prompt that differs does so at a tie."""
    return tied is not None and tied == sum(place >= 0 for place in diverged) > 0
