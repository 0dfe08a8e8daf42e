"""The one interface behind which workers run, and how a worker process or thread serves it.

An executor sends commands to workers and gives back their answers, from whichever worker is first. It knows nothing of schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from anydraft.core.messages import DRAFTER, Answer, Cancelled, Command, Failed, Run, Verify
from anydraft.parallel.inbox import Asked, Stale
from anydraft.parallel.worker import Scorer, Writer

Builder = Callable[[], Any]
"""Makes a target or a drafter where the worker runs; for processes and Ray it must survive pickling."""


class Executor(Protocol):
    """Workers: the drafter and `replicas` targets. `now` is seconds by its own clock; `close` ends every worker and waits for none.

    `tasks` is the highest task number that anybody gave so far: workers know what is cancelled by number, so numbers never come again.
    """

    replicas: int
    tasks: int

    @property
    def now(self) -> float: ...

    def send(self, order: Command) -> None:
        """Hands a command to its worker, or to all (`Open`). A dead worker is reported by `receive`, never raised here."""
        ...

    def receive(self, timeout: float | None = None) -> Answer | None:
        """The next answer; None if none came within `timeout` seconds."""
        ...

    def close(self) -> None: ...


def worker_of(number: int, build: Builder) -> Scorer | Writer:
    """The drafter or a target replica, made in the thread that it will work in: nothing there needs gradients."""
    torch.set_grad_enabled(False)  # of this thread alone
    return Writer(build()) if number == DRAFTER else Scorer(build())


def serve(worker: Scorer | Writer, number: int, order: Command, cancelled: Asked, reply: Callable[[Answer], None]) -> None:
    """Does one command and sends whatever is to be said about it: results, `Cancelled`, or `Failed`.

    Every `Verify` gets exactly one answer; a cancelled `Run` needs none.
    """
    task = order.task if isinstance(order, (Verify, Run)) else None
    try:
        for answer in worker.do(order, cancelled):
            if cancelled() and isinstance(order, Verify):
                raise Stale
            reply(answer)
    except Stale:
        if isinstance(order, Verify):
            reply(Cancelled(order.task, number))
    except Exception as error:  # noqa: BLE001 - whatever a model raises, the coordinator must hear of it
        reply(Failed(number, task, f"{type(error).__name__}: {error}", "free"))
