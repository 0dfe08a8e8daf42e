"""Workers behind connections: what processes and Ray actors share, on both ends.

Neither end needs a second thread: the caller keeps what a busy worker's socket does not take, a worker looks for cancels itself.
"""

from __future__ import annotations

import contextlib
import gc
import selectors
import time
from collections import deque
from typing import Any

from anydraft.core.messages import Answer, Command, Failed, Open
from anydraft.parallel.executor import Builder, serve, worker_of
from anydraft.parallel.lines import Line, Mailbox
from anydraft.parallel.wire import dumps, loads

READY = "ready"  # a worker's first word


class Pipes:
    """The caller's end: an `Executor` but for making and ending the workers."""

    def __init__(self, replicas: int) -> None:
        self.replicas, self.tasks = replicas, 0
        self._answers: deque[Answer] = deque()
        self._lines: dict[int, Line] = {}
        self._ready = selectors.DefaultSelector()

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def send(self, order: Command) -> None:
        """See `Executor.send`. What a worker has no room for now goes out when `receive` finds that it has."""
        data = dumps(order)
        for number in list(self._lines) if isinstance(order, Open) else [order.worker]:
            with contextlib.suppress(OSError, KeyError):  # gone: `receive` says so
                self._watch(number, self._lines[number].post(data))

    def receive(self, timeout: float | None = None) -> Answer | None:
        """See `Executor.receive`."""
        if not self._answers:
            self._listen(timeout)
        return self._answers.popleft() if self._answers else None

    def add(self, number: int, line: Line) -> None:
        """A worker's connection."""
        self._lines[number] = line
        self._ready.register(line, selectors.EVENT_READ, number)

    def greet(self, patience: float) -> None:
        """Waits until every worker has built its model or is gone."""
        waiting, end = set(self._lines), time.perf_counter() + patience
        while waiting and (left := end - time.perf_counter()) > 0:
            waiting -= self._listen(left)

    def hang_up(self) -> None:
        """Closes every connection."""
        for line in self._lines.values():
            line.close()
        self._lines = {}
        self._ready.close()

    def _watch(self, number: int, sent: bool) -> None:
        line = self._lines[number]
        events = selectors.EVENT_READ if sent else selectors.EVENT_READ | selectors.EVENT_WRITE
        if self._ready.get_key(line).events != events:
            self._ready.modify(line, events, number)

    def _listen(self, timeout: float | None) -> set[int]:
        """Takes in what has been said, and sends what is left. Returns who has said something, or is gone."""
        heard: set[int] = set()
        for key, events in self._ready.select(timeout) if self._lines else ():
            number, line = key.data, self._lines[key.data]
            try:
                if events & selectors.EVENT_WRITE:
                    self._watch(number, line.flush())
                if not events & selectors.EVENT_READ:
                    continue
                answers = [loads(data) for data in line.take()]
            except (EOFError, OSError):
                self._ready.unregister(line)
                self._lines.pop(number).close()
                answers = [Failed(number, None, "its process ended", "dead")]
            if answers:
                heard.add(number)
            self._answers.extend(answer for answer in answers if answer != READY)
        return heard


def work(number: int, build: Builder, line: Line) -> None:
    """The worker's end: builds its model and serves until the connection ends."""
    mailbox = Mailbox(line)

    def say(what: Any) -> None:
        line.say(dumps(what))

    try:
        worker = worker_of(number, build)
        gc.collect()
        gc.freeze()  # a full collection would walk all that torch has loaded, in the middle of a text
        say(READY)
        while (order := mailbox.get()) is not None:
            serve(worker, number, order, mailbox.asked(order), say)
    except OSError:
        pass  # nobody is there to hear it
    except Exception as error:  # noqa: BLE001 - a builder may raise anything
        with contextlib.suppress(OSError):
            say(Failed(number, None, f"its model could not be made: {type(error).__name__}: {error}", "dead"))
