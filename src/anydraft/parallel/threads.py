"""Workers as threads of this process: no copy of any weights, and forwards overlap as far as the models release the interpreter's lock.

On a CUDA device each worker has a queue of kernels of its own, so that nobody's forward waits behind another's.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import torch

from anydraft.core.messages import DRAFTER, Answer, Command, Failed, Open
from anydraft.parallel.executor import Builder, serve, worker_of
from anydraft.parallel.inbox import Inbox

_PARTING = 2.0  # seconds at the interpreter's end for forwards that are under way: torch aborts the process if one outlives the interpreter


class Threads:
    """See `Executor`.

    Args:
        targets: one builder per replica; drafter: the drafter's. Both are called in their threads.
    """

    def __init__(self, targets: Sequence[Builder], drafter: Builder | None):
        builders = dict(enumerate(targets)) | ({DRAFTER: drafter} if drafter is not None else {})
        self.replicas, self.tasks = len(targets), 0
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._inboxes = {n: Inbox() for n in builders}
        self.threads = [
            threading.Thread(target=self._loop, args=(n, build), name=f"anydraft-{'drafter' if n < 0 else n}", daemon=True) for n, build in builders.items()
        ]
        for thread in self.threads:
            thread.start()
        _OPEN.add(self)

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def send(self, order: Command) -> None:
        """See `Executor.send`."""
        for number in self._inboxes if isinstance(order, Open) else [order.worker]:
            if number in self._inboxes:
                self._inboxes[number].put(order)

    def receive(self, timeout: float | None = None) -> Answer | None:
        """See `Executor.receive`."""
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """See `Executor.close`. A forward that is under way ends by itself."""
        for inbox in self._inboxes.values():
            inbox.close()

    def _loop(self, number: int, build: Builder) -> None:
        inbox = self._inboxes[number]
        try:
            with _own_stream():
                worker = worker_of(number, build)
                while (order := inbox.get()) is not None:
                    serve(worker, number, order, inbox.asked(order), self._answers.put)
        except BaseException as error:  # noqa: BLE001 - a thread must not die unheard
            self._answers.put(Failed(number, None, f"its thread ended: {type(error).__name__}: {error}", "dead"))


@contextlib.contextmanager
def _own_stream() -> Iterator[None]:
    """Everything that the worker's models hold is made and used here; only the weights are older, so what is under way with them ends first."""
    if not torch.cuda.is_initialized():
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(stream):
        yield


_OPEN: weakref.WeakSet[Threads] = weakref.WeakSet()


@atexit.register
def _part() -> None:
    end = time.perf_counter() + _PARTING
    executors = list(_OPEN)
    for executor in executors:
        executor.close()
    for thread in [thread for executor in executors for thread in executor.threads]:
        thread.join(max(0.0, end - time.perf_counter()))
