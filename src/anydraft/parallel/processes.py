"""Workers as processes of this machine, each with its own interpreter. Weights in host memory are shared, not copied, as torch's multiprocessing does."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from anydraft.core.messages import DRAFTER, Answer, Cancel, Command, Failed, Open
from anydraft.parallel.executor import Builder, serve, worker_of


class Processes:
    """See `Executor`.

    Args:
        targets: one picklable builder per replica; drafter: the drafter's.
        threads: torch threads of each worker.
        patience: seconds in which all workers must have built their models.
    """

    def __init__(self, targets: Sequence[Builder], drafter: Builder | None, *, threads: int = 1, patience: float = 300.0):
        builders = dict(enumerate(targets)) | ({DRAFTER: drafter} if drafter is not None else {})
        self.replicas, self.tasks = len(targets), 0
        fresh = torch.multiprocessing.get_context("spawn")  # a forked child would inherit torch's thread pools, locked
        self._answers: deque[Answer] = deque()
        self._through = {n: fresh.RawValue("q", 0) for n in builders}
        self._pipes: dict[int, Any] = {}
        self.processes: dict[int, Any] = {}
        for n, build in builders.items():
            self._pipes[n], theirs = fresh.Pipe()
            self.processes[n] = fresh.Process(target=_work, args=(n, build, theirs, self._through[n], threads), daemon=True)
            self.processes[n].start()
            theirs.close()
        self._await(patience)

    def _await(self, patience: float) -> None:
        """Waits until every worker has built its model or is gone."""
        waiting, end = set(self._pipes), time.perf_counter() + patience
        while waiting and time.perf_counter() < end:
            answer = self._poll(1.0, raw=True)
            if answer == "ready":
                waiting.discard(self._last)
            elif isinstance(answer, Failed):
                waiting.discard(answer.worker)
                self._answers.append(answer)

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def send(self, order: Command) -> None:
        """See `Executor.send`."""
        if isinstance(order, Open):
            for number in list(self._pipes):
                self._put(number, order)
        elif isinstance(order, Cancel):
            if order.worker in self._through:
                self._through[order.worker].value = max(self._through[order.worker].value, order.task)
        else:
            self._put(order.worker, order)

    def _put(self, number: int, order: Command) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # gone: `receive` says so
            self._pipes[number].send_bytes(pickle.dumps(order))

    def receive(self, timeout: float | None = None) -> Answer | None:
        """See `Executor.receive`."""
        return self._answers.popleft() if self._answers else self._poll(timeout)

    def _poll(self, timeout: float | None, raw: bool = False) -> Any:
        ends = {pipe: n for n, pipe in self._pipes.items()}
        for pipe in multiprocessing.connection.wait(list(ends), timeout):
            self._last = ends[pipe]  # type: ignore[index]
            try:
                answer = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except (EOFError, OSError):
                del self._pipes[self._last]
                answer = Failed(self._last, None, "its process ended", "dead")
            if raw or answer != "ready":
                return answer
        return None

    def close(self) -> None:
        """See `Executor.close`."""
        for pipe in self._pipes.values():
            pipe.close()
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
        for process in self.processes.values():
            process.join(5)
        self._pipes = {}


def _work(number: int, build: Builder, pipe: Any, through: Any, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its children
    torch.set_num_threads(threads)
    try:
        worker = worker_of(number, build)
        pipe.send_bytes(pickle.dumps("ready"))
        while True:
            order = pickle.loads(pipe.recv_bytes())
            task = getattr(order, "task", None)
            serve(worker, number, order, lambda task=task: task is not None and task <= through.value, lambda answer: pipe.send_bytes(pickle.dumps(answer)))
    except (EOFError, OSError):
        pass  # the parent is gone
    except Exception as error:  # noqa: BLE001 - a builder may raise anything
        with contextlib.suppress(OSError):
            pipe.send_bytes(pickle.dumps(Failed(number, None, f"its model could not be made: {type(error).__name__}: {error}", "dead")))
    os._exit(0)
