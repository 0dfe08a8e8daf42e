"""Models that also wait: real orchestration, measured with real clocks, on a machine that has no accelerator to wait for.

Source: the method of Timor et al. 2025, arXiv:2405.14105, whose experiments wait instead of computing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydraft.core.noise import hashed
from anydraft.core.processors import Laws
from anydraft.core.records import Context, Draft, Scores
from anydraft.parallel.inbox import Asked, Never, Stale

_SPIN = 0.0002  # seconds; a sleep ends this much too late now and then, so the last of a wait is spent looking at the clock


class Slowed:
    """A model, or a target, whose forwards take at least `seconds`. A wait ends early, with Stale, when its task is cancelled."""

    def __init__(self, inner: Any, seconds: float):
        self.inner, self.seconds = inner, seconds
        self.vocab_size, self.max_length = inner.vocab_size, inner.max_length
        self._cancelled: Asked = Never()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def watch(self, cancelled: Asked) -> None:
        """Takes the question whether the task at hand was cancelled."""
        self._cancelled = cancelled

    def score(self, context: Context, draft: Draft) -> Scores:
        """See `Target.score`."""
        return self._slowly(self.inner.score, context, draft)

    def next(self, context: Context) -> Tensor:
        """See `Model.next`."""
        return self._slowly(self.inner.next, context)

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Model.grow`."""
        return self._slowly(self.inner.grow, tokens, parent)

    def _slowly(self, work: Callable[..., Any], *arguments: Any) -> Any:
        end = time.perf_counter() + self.seconds
        result = work(*arguments)
        left = end - time.perf_counter() - _SPIN
        if left > 0:
            self._cancelled.wait(left)
        while time.perf_counter() < end:
            if self._cancelled():
                raise Stale
        return result


class Scripted:
    """A target and drafter pair in one: the target's next token is a hash of the context's length and last id, and the drafter agrees with a given rate.

    Args:
        acceptance: how often the drafter proposes the target's token; None makes the target itself.
    """

    def __init__(self, acceptance: float | None = None, vocab_size: int = 32, seed: int = 0):
        self.acceptance, self.vocab_size, self.seed = acceptance, vocab_size, seed
        self.max_length: int | None = None
        self.forwards = 0
        self._laws = Laws()

    def token(self, length: int, last: int) -> int:
        """What the target says after `length` ids that end in `last`."""
        return int(hashed(self.seed, length, last)[0] % np.uint64(self.vocab_size))

    def agrees(self, length: int, last: int) -> bool:
        """Whether the drafter says so too."""
        return float(hashed(self.seed, length, last, 1)[0] >> np.uint64(11)) * 2.0**-53 < (1.0 if self.acceptance is None else self.acceptance)

    def _row(self, length: int, last: int) -> Tensor:
        said = self.token(length, last)
        row = torch.zeros(self.vocab_size, dtype=torch.float64)
        row[said if self.agrees(length, last) else (said + 1) % self.vocab_size] = 20.0
        return row

    def score(self, context: Context, draft: Draft) -> Scores:
        """See `Target.score`; chains only."""
        self.forwards += 1
        length, last = int(context.length), int(context.ids[0, int(context.length) - 1])
        rows = [self._row(length, last)] + [self._row(length + 1 + i, token) for i, token in enumerate(draft.tokens[0].tolist())]
        logits = torch.stack(rows)[None]
        return Scores(law=self._laws.of(logits, context, draft), logits=logits)

    def next(self, context: Context) -> Tensor:
        """See `Model.next`."""
        self.forwards += 1
        self._at = int(context.length)
        return self._row(self._at, int(context.ids[0, self._at - 1]))[None]

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Model.grow`; one token at a time."""
        self.forwards += 1
        self._at += 1
        return self._row(self._at, int(tokens[0, 0]))[None, None]

    def trace(self, ids: list[int], prompt: int) -> list[bool]:
        """For each generated position of a decoded text: whether the draft for it is accepted."""
        return [self.agrees(n, ids[n - 1]) for n in range(prompt, len(ids))]
