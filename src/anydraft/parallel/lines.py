"""Framed messages on a stream socket, and a worker's end of it: commands are read by the very thread that works.

A reader thread would cost every command a second wake-up, and the interpreter's lock twice. So a worker looks at its socket itself: while it has nothing
to do, while a forward waits, and whenever somebody asks whether the task at hand was cancelled. Nobody who sends to it has to wait meanwhile: what the
socket does not take at once stays with the sender, see `Line.post`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque

from anydraft.core.messages import Cancel, Command
from anydraft.parallel.inbox import Asked
from anydraft.parallel.wire import loads

_EVER = 1 << 62
_HEAD = struct.Struct("!Q")  # bytes that follow
_ONCE = 1 << 18  # bytes taken from the socket in one call
_MOST = 1024  # `select` knows file numbers below this


class Line:
    """One end of a connection."""

    def __init__(self, line: socket.socket):
        self._line = line
        line.setblocking(True)
        self._came, self._left = bytearray(), bytearray()

    def fileno(self) -> int:
        """The socket's number, for selectors."""
        return self._line.fileno()

    def say(self, data: bytes) -> None:
        """Sends a message and waits until the other side has room for it. Raises OSError if it is gone."""
        self._line.sendall(_HEAD.pack(len(data)) + data)

    def post(self, data: bytes) -> bool:
        """Sends what there is room for now and keeps the rest for `flush`. Returns whether all of it went. Raises OSError."""
        self._left += _HEAD.pack(len(data)) + data
        return self.flush()

    def flush(self) -> bool:
        """Sends more of what is left, as far as there is room. Returns whether all of it went. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            while self._left:
                del self._left[: self._line.send(self._left, socket.MSG_DONTWAIT)]
        return not self._left

    def take(self, wait: bool = False) -> list[bytes]:
        """The whole messages that have come; with `wait`, not before there is something. Raises EOFError if the other side is gone, OSError."""
        try:
            data = self._line.recv(_ONCE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        self._came += data
        whole, start = [], 0
        while len(self._came) >= start + _HEAD.size:
            (size,) = _HEAD.unpack_from(self._came, start)
            end = start + _HEAD.size + size
            if len(self._came) < end:
                break
            whole.append(bytes(self._came[start + _HEAD.size : end]))
            start = end
        del self._came[:start]
        return whole

    def wait(self, seconds: float) -> None:
        """Returns when there is something to take, or after this time at the latest."""
        if self.fileno() < _MOST:
            select.select([self], [], [], seconds)  # the one call of its kind whose time is not rounded to milliseconds
        else:
            time.sleep(min(seconds, 0.001))

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()


class Mailbox:
    """A worker's commands, in order, and what was cancelled of them; for one thread. See `Inbox`, which is for two."""

    def __init__(self, line: Line):
        self._line = line
        self._orders: deque[Command] = deque()
        self._through = 0  # tasks up to this number are cancelled

    def get(self) -> Command | None:
        """The next command; None once the other side is gone, whatever still lies here."""
        while not self._orders and self._through < _EVER:
            self._look(wait=True)
        return None if self._through == _EVER else self._orders.popleft()

    def asked(self, order: Command) -> Asked:
        """The question whether this command was cancelled; never, if it is no task."""
        return _Task(self, getattr(order, "task", _EVER))

    def _look(self, wait: bool = False) -> None:
        try:
            came = self._line.take(wait)
        except (EOFError, OSError):
            self._through = _EVER
            return
        for data in came:
            order = loads(data)
            if isinstance(order, Cancel):
                self._through = max(self._through, order.task)
            else:
                self._orders.append(order)


class _Task:
    def __init__(self, mailbox: Mailbox, number: int):
        self._mailbox, self._number = mailbox, number

    def __call__(self) -> bool:
        if self._number > self._mailbox._through:
            self._mailbox._look()
        return self._number <= self._mailbox._through

    def wait(self, seconds: float) -> bool:
        end = time.perf_counter() + seconds
        while not self() and (left := end - time.perf_counter()) > 0:
            self._mailbox._line.wait(left)
        return self._number <= self._mailbox._through
