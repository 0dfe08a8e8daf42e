"""A worker's commands, in order, and what was cancelled of them: a cancel is heard while a command is worked on."""

from __future__ import annotations

import queue
import threading
import time
from typing import Protocol

from anydraft.core.messages import Cancel, Command

_EVER = 1 << 62


class Stale(Exception):  # noqa: N818 - raised to leave a forward early; nothing went wrong
    """The task was cancelled while it was worked on."""


class Asked(Protocol):
    """Whether the task at hand was cancelled."""

    def __call__(self) -> bool:
        """Now."""
        ...

    def wait(self, seconds: float) -> bool:
        """Within this time; returns as soon as it was."""
        ...


class Never:
    """Nobody cancels."""

    def __call__(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        """See `Asked.wait`."""
        time.sleep(seconds)
        return False


class Inbox:
    """Filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._through = 0  # tasks up to this number are cancelled
        self._news = threading.Condition()

    def put(self, order: Command) -> None:
        """Takes a command."""
        if isinstance(order, Cancel):
            self._cancel(order.task)
        else:
            self._orders.put(order)

    def close(self) -> None:
        """Cancels everything; `get` gives None from then on."""
        self._cancel(_EVER)
        self._orders.put(None)

    def get(self) -> Command | None:
        """The next command; None once the inbox is closed, whatever still lies in it."""
        order = self._orders.get()
        return None if order is None or self._through == _EVER else order

    def asked(self, order: Command) -> Asked:
        """The question whether this command was cancelled; never, if it is no task."""
        return _Task(self, getattr(order, "task", _EVER))

    def _cancel(self, through: int) -> None:
        with self._news:
            self._through = max(self._through, through)
            self._news.notify_all()


class _Task:
    def __init__(self, inbox: Inbox, number: int):
        self._inbox, self._number = inbox, number

    def __call__(self) -> bool:
        return self._number <= self._inbox._through

    def wait(self, seconds: float) -> bool:
        with self._inbox._news:
            return self._inbox._news.wait_for(self, seconds)
