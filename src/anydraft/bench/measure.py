"""Measures contenders side by side: interleaved rounds, tokens counted from ids, outputs compared, ratios paired and with intervals.

A round is one batch of prompts given to every contender in turn, in an order that changes from round to round; so whatever
else the machine does meets all of them alike. A ratio is formed within rounds, and its interval comes from resampling prompts,
which is where the variance is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from anydraft.bench.memory import Peak
from anydraft.core.errors import AnydraftError

_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+")  # reports name no folders, of this machine or of the one that built a library


WARM_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Job:
    """One batch of prompts and how to continue them."""

    name: str  # which prompts these are; rounds with one name are repetitions of each other
    prompts: list[list[int]]  # ids of the target's tokenizer
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one contender made of one job."""

    tokens: list[list[int]]  # new ids of each prompt
    seconds: float  # wall time of the whole call
    first_s: float | None = None  # seconds to the first token, where it can be seen
    facts: dict[str, Any] = field(default_factory=dict)  # sums over the batch: drafted, accepted, forwards, draft_s, ...


class Contender(Protocol):
    """Something that continues prompts. `name` is its row in every table; `system` is whose code it is."""

    name: str
    system: str

    def run(self, job: Job) -> Outcome:
        """Continues every prompt of the job."""
        ...


@dataclass(slots=True)
class Measurement:
    """One contender in one round, as it is stored: plain types only."""

    contender: str
    system: str
    job: str
    repetition: int
    session: int  # rounds of different sessions are never paired
    seconds: float = 0.0
    tokens: int = 0
    first_s: float | None = None
    same: bool | None = None  # the reference's very ids; None where there is nothing to compare (sampling, an error)
    lengths: list[int] = field(default_factory=list)
    tied: int | None = None  # of the prompts that differ, how many first do so at a tie of the target's own arithmetic; None: not examined
    diverged: list[int] = field(default_factory=list)  # per prompt, the first place that differs from the reference; -1 for none
    peak_bytes: int | None = None
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Ratio(NamedTuple):
    """A speed against the baseline's, with the 95 % interval of the bootstrap."""

    value: float
    low: float
    high: float
    prompts: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def warm_up(contenders: Sequence[Contender], job: Job) -> dict[str, str]:
    """Runs every contender once on a job that is thrown away; returns the errors by name.

    Allocators, lazy imports, thread pools and caches of compiled code would otherwise be billed to whoever comes first; and a model's
    forward is recorded only after some steps, which is why the job is not cut shorter than this.
    """
    short = Job(job.name, job.prompts, min(WARM_TOKENS, job.max_new_tokens), job.temperature, job.top_p, job.seed)
    return {c.name: error for c in contenders if (error := _attempt(c, short)[1]) is not None}


Audit = Callable[[Job, list[list[int]], list[list[int]]], int | None]
"""(job, the right ids, others) -> how many of the prompts that differ do so at a tie, None where that cannot be told."""


def measure_round(
    contenders: Sequence[Contender], job: Job, repetition: int, session: int, reference: str | None = None, turn: int | None = None,
    audit: Audit | None = None,
) -> Iterator[Measurement]:  # fmt: skip
    """Runs one round and yields a measurement per contender, in the order in which they ran.

    Args:
        reference: the contender whose ids are the right ones where the job is greedy.
        turn: decides the order, as `rotated` says; the repetition where it is left out.
        audit: asked about differences, after everybody has run.
    """
    order = rotated(list(contenders), repetition if turn is None else turn)
    expected: list[list[int]] | None = None
    held: list[tuple[Measurement, list[list[int]] | None]] = []
    for contender in order:
        with Peak() as peak:
            outcome, error = _attempt(contender, job)
        made = Measurement(contender.name, contender.system, job.name, repetition, session, error=error, peak_bytes=peak.bytes)
        if outcome is not None:
            made.seconds, made.first_s, made.facts = outcome.seconds, outcome.first_s, dict(outcome.facts)
            made.lengths = [len(ids) for ids in outcome.tokens]
            made.tokens = sum(made.lengths)
            if contender.name == reference:
                expected = outcome.tokens
        held.append((made, outcome.tokens if outcome is not None else None))
    for made, tokens in held:
        if tokens is not None and expected is not None and job.temperature == 0:
            made.diverged = [first_difference(a, b) for a, b in zip(expected, tokens)]
            made.same = all(d < 0 for d in made.diverged) and len(tokens) == len(expected)
            made.tied = audit(job, expected, tokens) if audit is not None and not made.same else None
        yield made


def rotated(order: list[Any], turn: int) -> list[Any]:
    """The order of this turn: as it is, backwards, moved on by one place, that backwards, and so on.

    >>> rotated(["a", "b", "c"], 0), rotated(["a", "b", "c"], 1), rotated(["a", "b", "c"], 2)
    (['a', 'b', 'c'], ['c', 'b', 'a'], ['b', 'c', 'a'])
    """
    place = turn // 2 % max(1, len(order))
    turned = order[place:] + order[:place]
    return turned[::-1] if turn % 2 else turned


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first index at which two id sequences differ, their lengths included; -1 if they are equal.

    >>> first_difference([1, 2], [1, 2]), first_difference([1, 2], [1]), first_difference([1, 2], [1, 3])
    (-1, 1, 1)
    """
    for place, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return place
    return -1 if len(a) == len(b) else min(len(a), len(b))


def paired_ratio(measured: Sequence[Measurement], contender: str, baseline: str, *, draws: int = 2000, seed: int = 0) -> Ratio | None:
    """How many times faster than the baseline, in tokens per second, over the rounds in which both ran in one session.

    The estimate is the baseline's seconds per token over the contender's, summed over rounds. The interval is the percentile bootstrap over
    prompts; with a single prompt, over its rounds. None where no round has both.
    """
    pairs = _pairs(measured, contender, baseline)
    if not pairs:
        return None
    groups: dict[str, list[tuple[float, float, float, float]]] = {}
    for (job, repetition, _), pair in pairs.items():
        groups.setdefault(job if len({key[0] for key in pairs}) > 1 else f"{job}/{repetition}", []).append(pair)
    sums = np.array([np.sum(rows, axis=0) for rows in groups.values()])  # f[G, 4]: seconds and tokens of each
    value = _rate(sums.sum(0))
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    low, high = np.percentile([_rate(sums[pick].sum(0)) for pick in picks], [2.5, 97.5])
    return Ratio(float(value), float(low), float(high), len(groups))


def _pairs(
    measured: Sequence[Measurement], contender: str, baseline: str
) -> Mapping[tuple[str, int, int], tuple[float, float, float, float]]:
    def usable(name: str) -> dict[tuple[str, int, int], Measurement]:
        return {(m.job, m.repetition, m.session): m for m in measured if m.contender == name and m.error is None and m.tokens}

    ours, theirs = usable(contender), usable(baseline)
    return {key: (theirs[key].seconds, theirs[key].tokens, m.seconds, m.tokens) for key, m in ours.items() if key in theirs}


def _rate(sums: np.ndarray) -> float:
    base_s, base_tokens, own_s, own_tokens = sums
    return (base_s / base_tokens) / (own_s / own_tokens)


def _attempt(contender: Contender, job: Job) -> tuple[Outcome | None, str | None]:
    """A contender's failure is a result, not the end of the benchmark."""
    try:
        return contender.run(job), None
    except Exception as error:
        return None, described(error)


def described(error: Exception) -> str:
    """An error as a row of a report: its kind, and its message or the first line of somebody else's.

    >>> described(ValueError("failed at /home/builder/a.cpp:3\\nsecond line"))
    'ValueError: failed at a.cpp:3'
    """
    if isinstance(error, AnydraftError):
        return f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = lines[0]
    if said.startswith("Exception from ") and len(lines) > 1:  # C++ libraries put the file first, which is a path of their builder's machine
        said = lines[1]
    return f"{type(error).__name__}: {_FOLDERS.sub('', said)[:300]}"


class Stopwatch:
    """Wall seconds of a block; an accelerator is waited for at both ends."""

    def __init__(self, device: Any = "cpu"):
        self.device, self.seconds = str(device), 0.0

    def __enter__(self) -> Stopwatch:
        self._wait()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._start

    def _wait(self) -> None:
        if not self.device.startswith("cpu"):
            import torch

            torch.accelerator.synchronize()
