"""What a parallel schedule says to its workers, and what they say back: plain values that travel between threads, processes and machines.

A position is an absolute index into a request's ids; the row for a position is the target's next-token logits in front of it. Every command and
every answer carries the epoch it belongs to: cancelled work may still answer, so what is stale is told by the epoch, never by a cancel's arrival.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anydraft.core.records import Draft, Request, Step

DRAFTER = -1
"""The drafter's number among the workers; target replicas are 0, 1, ..."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One drafted token, -1 for a draw that came out empty, with the one-node draft that a rule judges."""

    token: int
    draft: Draft | None = None  # None where nothing is judged by tensors: simulations, and requests whose `Open` says so


# -- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """A request begins; goes to every worker. The workers' copy lacks the user's objects: laws are made in one place."""

    key: int
    request: Request
    slot: int
    seconds: float = 0.0  # unused by workers; kept so that a log of commands can be timed
    laws: bool = True  # whether nodes must bring what a rule judges; tokens suffice where the target's laws are one-hot


@dataclass(frozen=True, slots=True)
class Verify:
    """Rows for the positions start, ..., start + len(drafts)."""

    task: int
    worker: int
    key: int
    epoch: int
    start: int
    behind: tuple[int, ...]  # generated ids in front of `start`
    drafts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Draft from `start` on, token by token, up to but not including position `until`, without waiting for anybody."""

    task: int
    key: int
    epoch: int
    start: int
    behind: tuple[int, ...]
    until: int
    unit: int  # most tokens in one answer
    worker: int = DRAFTER


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this task any more."""

    task: int
    worker: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Teach:
    """A finished step, for a drafter that learns."""

    step: Step
    worker: int = DRAFTER


Command = Open | Verify | Run | Cancel | Teach


# -- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scored:
    """f[1 + drafts, V]: the rows that a `Verify` asked for."""

    task: int
    worker: int
    epoch: int
    start: int
    rows: Tensor | tuple[Any, ...]
    seconds: float = 0.0  # how long the worker was busy with it


@dataclass(frozen=True, slots=True)
class Drafted:
    """Nodes for the positions from `start` on; `last` if this run will bring no more."""

    task: int
    epoch: int
    start: int
    nodes: tuple[Node, ...]
    last: bool = False
    seconds: float = 0.0
    worker: int = DRAFTER


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The worker has dropped the task and is free."""

    task: int
    worker: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """No result will come of the task, or none has come in time.

    state: "free" if the worker takes further work, "silent" if it has not answered (it may yet), "dead" if it is gone.
    """

    worker: int
    task: int | None
    reason: str
    state: str = "free"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Joined:
    """One more target worker can be used."""

    worker: int


Answer = Scored | Drafted | Cancelled | Failed | Joined


@dataclass(slots=True)
class Tally:
    """What a parallel schedule spent and threw away; counts of tasks unless said otherwise."""

    verifications: int = 0
    wasted_verifications: int = 0  # answered or cancelled without deciding a position
    cancelled: int = 0
    stale_answers: int = 0
    drafted_tokens: int = 0
    wasted_drafts: int = 0  # tokens
    failures: list[str] = field(default_factory=list)
