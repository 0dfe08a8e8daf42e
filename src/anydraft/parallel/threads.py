"""Workers as threads of this process: no copy of any weights, and forwards overlap as far as the models release the interpreter's lock."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from anydraft.core.messages import DRAFTER, Answer, Cancel, Command, Failed, Open
from anydraft.parallel.executor import Builder, serve, worker_of


class Threads:
    """See `Executor`.

    Args:
        targets: one builder per replica; drafter: the drafter's. Both are called in their threads.
    """

    def __init__(self, targets: Sequence[Builder], drafter: Builder | None):
        builders = dict(enumerate(targets)) | ({DRAFTER: drafter} if drafter is not None else {})
        self.replicas, self.tasks = len(targets), 0
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._orders: dict[int, queue.SimpleQueue[Command | None]] = {n: queue.SimpleQueue() for n in builders}
        self._through = dict.fromkeys(builders, 0)  # tasks up to this number are cancelled, per worker
        self._closed = False
        self.threads = [
            threading.Thread(target=self._loop, args=(n, build), name=f"anydraft-{'drafter' if n < 0 else n}", daemon=True) for n, build in builders.items()
        ]
        for thread in self.threads:
            thread.start()

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def send(self, order: Command) -> None:
        """See `Executor.send`."""
        if isinstance(order, Open):
            for orders in self._orders.values():
                orders.put(order)
        elif isinstance(order, Cancel):
            self._through[order.worker] = max(self._through.get(order.worker, 0), order.task)
        elif order.worker in self._orders:
            self._orders[order.worker].put(order)

    def receive(self, timeout: float | None = None) -> Answer | None:
        """See `Executor.receive`."""
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """See `Executor.close`. A forward that is under way ends by itself; the threads are daemons."""
        self._closed = True
        for orders in self._orders.values():
            orders.put(None)

    def _loop(self, number: int, build: Builder) -> None:
        try:
            worker = worker_of(number, build)
            while (order := self._orders[number].get()) is not None and not self._closed:
                task = getattr(order, "task", None)
                serve(worker, number, order, lambda task=task: self._closed or (task is not None and task <= self._through[number]), self._answers.put)
        except BaseException as error:  # noqa: BLE001 - a thread must not die unheard
            self._answers.put(Failed(number, None, f"its thread ended: {type(error).__name__}: {error}", "dead"))
