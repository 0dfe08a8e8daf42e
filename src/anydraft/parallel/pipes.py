"""Workers behind connections: what processes and Ray actors share, on both ends.

A worker reads its commands in a thread of its own, so that a cancel is heard during a forward and no sender ever waits for a busy worker.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections import deque
from typing import Any

from anydraft.core.messages import Answer, Command, Failed, Open
from anydraft.parallel.executor import Builder, serve, worker_of
from anydraft.parallel.inbox import Inbox
from anydraft.parallel.wire import dumps, loads

READY = "ready"  # a worker's first word


class Pipes:
    """The caller's end: an `Executor` but for making and ending the workers."""

    def __init__(self, replicas: int) -> None:
        self.replicas, self.tasks = replicas, 0
        self._answers: deque[Answer] = deque()
        self._pipes: dict[int, Any] = {}
        self._ready = selectors.DefaultSelector()

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def send(self, order: Command) -> None:
        """See `Executor.send`."""
        data = dumps(order)
        for number in list(self._pipes) if isinstance(order, Open) else [order.worker]:
            with contextlib.suppress(OSError, ValueError, KeyError):  # gone: `receive` says so
                self._pipes[number].send_bytes(data)

    def receive(self, timeout: float | None = None) -> Answer | None:
        """See `Executor.receive`."""
        if not self._answers:
            self._listen(timeout)
        return self._answers.popleft() if self._answers else None

    def add(self, number: int, pipe: Any) -> None:
        """A worker's connection."""
        self._pipes[number] = pipe
        self._ready.register(pipe, selectors.EVENT_READ, number)

    def greet(self, patience: float) -> None:
        """Waits until every worker has built its model or is gone."""
        waiting, end = set(self._pipes), time.perf_counter() + patience
        while waiting and (left := end - time.perf_counter()) > 0:
            waiting -= self._listen(left)

    def hang_up(self) -> None:
        """Closes every connection."""
        for pipe in self._pipes.values():
            pipe.close()
        self._pipes = {}
        self._ready.close()

    def _listen(self, timeout: float | None) -> set[int]:
        """Takes in one message of everybody who has said something. Returns who was ready, or gone."""
        heard = set()
        for key, _ in self._ready.select(timeout) if self._pipes else ():
            number = key.data
            try:
                answer = loads(self._pipes[number].recv_bytes())
            except (EOFError, OSError):
                self._ready.unregister(key.fileobj)
                del self._pipes[number]
                answer = Failed(number, None, "its process ended", "dead")
            heard.add(number)
            if answer != READY:
                self._answers.append(answer)
        return heard


def work(number: int, build: Builder, pipe: Any) -> None:
    """The worker's end: builds its model and serves until the connection ends."""
    inbox = Inbox()

    def say(what: Any) -> None:
        pipe.send_bytes(dumps(what))

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                inbox.put(loads(pipe.recv_bytes()))
        inbox.close()  # the caller is gone

    threading.Thread(target=read, name="anydraft-inbox", daemon=True).start()
    try:
        worker = worker_of(number, build)
        say(READY)
        while (order := inbox.get()) is not None:
            serve(worker, number, order, inbox.asked(order), say)
    except OSError:
        pass  # nobody is there to hear it
    except Exception as error:  # noqa: BLE001 - a builder may raise anything
        with contextlib.suppress(OSError):
            say(Failed(number, None, f"its model could not be made: {type(error).__name__}: {error}", "dead"))


