"""Workers as Ray actors, on this machine or on a cluster: one actor per target replica and one for the drafter, placed by Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from anydraft.core.errors import BadOption
from anydraft.core.messages import DRAFTER, Answer, Cancel, Command, Failed, Open, Run
from anydraft.parallel.executor import Builder, serve, worker_of

_OPENING = 30.0  # seconds; an actor that has not even opened a request by then is left to the watchdog


class Actor:
    """One worker. `do` and `cancel` run in threads of their own, so that a cancel is heard during a forward."""

    def __init__(self, number: int, build: Builder, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.number, self.worker, self.through = number, worker_of(number, build), 0
        self._one = threading.Lock()

    def ready(self) -> int:
        """Its number, once its model is made."""
        return self.number

    def cancel(self, through: int) -> None:
        """Tasks up to this number are cancelled."""
        self.through = max(self.through, through)

    def do(self, order: Command) -> list[Answer]:
        """All answers to a command."""
        said: list[Answer] = []
        with self._one:
            serve(self.worker, self.number, order, self._asker(order), said.append)
        return said

    def run(self, order: Command) -> Iterator[list[Answer]]:
        """The answers to a run, as they come."""
        cancelled = self._asker(order)
        with self._one:
            try:
                for answer in self.worker.do(order, cancelled):
                    yield [answer]
            except Exception as error:  # noqa: BLE001 - whatever a model raises, the coordinator must hear of it
                yield [Failed(self.number, getattr(order, "task", None), f"{type(error).__name__}: {error}", "free")]

    def _asker(self, order: Command):
        task = getattr(order, "task", None)
        return lambda: task is not None and task <= self.through


class Rays:
    """See `Executor`.

    Args:
        targets, drafter: picklable builders.
        address: of a running cluster (`ray start --head`); None: a new one on this machine, or the one that is connected to already.
        gpus: of each worker.
    Raises:
        BadOption: Ray is not installed.
    """

    def __init__(
        self, targets: Sequence[Builder], drafter: Builder | None, *, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0, threads: int = 1
    ):
        try:
            import ray
            from ray.exceptions import GetTimeoutError, RayError
        except ImportError:
            raise BadOption("executor 'ray' needs Ray", next_step="pip install 'anydraft[ray]'") from None
        self._ray, self._mine = ray, not ray.is_initialized()
        if self._mine:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        builders = dict(enumerate(targets)) | ({DRAFTER: drafter} if drafter is not None else {})
        self.replicas, self.tasks = len(targets), 0
        made = ray.remote(Actor).options(num_cpus=cpus, num_gpus=gpus, max_concurrency=3)
        self.actors = {n: made.remote(n, build, threads) for n, build in builders.items()}
        self._pending: dict[Any, int] = {}
        self._streams: dict[Any, int] = {}
        self._answers: deque[Answer] = deque()
        for n, actor in self.actors.items():
            try:
                ray.get(actor.ready.remote(), timeout=300)
            except (RayError, GetTimeoutError) as error:
                self._answers.append(Failed(n, None, f"its actor could not be made: {str(error).splitlines()[0]}", "dead"))

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def send(self, order: Command) -> None:
        """See `Executor.send`."""
        if isinstance(order, Open):
            opened = {actor.do.remote(order): n for n, actor in self.actors.items()}
            self._pending |= opened  # an actor with several threads keeps no order: nothing follows before all have opened
            self._ray.wait(list(opened), num_returns=len(opened), timeout=_OPENING)
        elif isinstance(order, Cancel):
            if order.worker in self.actors:
                self.actors[order.worker].cancel.remote(order.task)
        elif isinstance(order, Run) and order.worker in self.actors:
            self._streams[self.actors[order.worker].run.options(num_returns="streaming").remote(order)] = order.worker
        elif order.worker in self.actors:
            self._pending[self.actors[order.worker].do.remote(order)] = order.worker

    def receive(self, timeout: float | None = None) -> Answer | None:
        """See `Executor.receive`."""
        end = None if timeout is None else time.perf_counter() + timeout
        while not self._answers:
            left = None if end is None else max(0.0, end - time.perf_counter())
            waiting = [*self._pending, *self._streams]
            if not waiting:
                return None
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=left)
            if not ready:
                return None
            self._take(ready[0])
        return self._answers.popleft()

    def _take(self, reference: Any) -> None:
        streamed = reference in self._streams
        number = self._streams[reference] if streamed else self._pending.pop(reference)
        try:
            self._answers += self._ray.get(next(reference) if streamed else reference)
        except StopIteration:
            del self._streams[reference]
        except self._ray.exceptions.RayError as error:
            self._streams.pop(reference, None)
            self.actors.pop(number, None)
            self._answers.append(Failed(number, None, f"its actor is gone: {str(error).splitlines()[0]}", "dead"))

    def close(self) -> None:
        """See `Executor.close`."""
        for actor in self.actors.values():
            self._ray.kill(actor)
        self.actors = {}
        if self._mine and self._ray.is_initialized():
            self._ray.shutdown()
