"""Workers as Ray actors, on this machine or on a cluster: one actor per target replica and one for the drafter.

Ray places the actors, gives them their resources, and ends them. Messages take a connection of their own from each actor to the caller: a call of an
actor costs some milliseconds on a small machine, more than a drafted token. On the caller's node it is a Unix socket, elsewhere TCP.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import AuthenticationError, connection
from typing import Any

from anydraft.core.errors import BadOption
from anydraft.core.messages import DRAFTER, Failed
from anydraft.parallel.executor import Builder
from anydraft.parallel.lines import Line
from anydraft.parallel.pipes import Pipes, work

_PATIENCE = 300.0  # seconds until all actors must have been placed and have built their models
_HANDSHAKE = 10  # seconds, whole
_NICE = "RAY_worker_niceness"  # Ray ranks its workers 15 steps behind all else, the caller included; but a text waits for every answer of these


@dataclass(frozen=True, slots=True)
class Address:
    """Where the caller can be reached: `path` from its own node, `host` and `port` from all."""

    node: str
    path: str
    host: str
    port: int

    def connect(self, node: str) -> socket.socket:
        """A connection from this node. Raises OSError."""
        if node == self.node:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(self.path)
                return line
            except OSError:  # a worker in a container of its own shares the node and not its files
                line.close()
        return socket.create_connection((self.host, self.port), timeout=_HANDSHAKE)


class Actor:
    """One worker: calls the caller and serves until it hangs up."""

    def __init__(self, number: int, build: Builder, threads: int):
        self.number, self.build, self.threads = number, build, threads

    def serve(self, address: Address, key: bytes) -> None:
        """Returns when the connection ends."""
        import ray
        import torch

        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches everybody; the caller ends its actors
        torch.set_num_threads(self.threads)
        line = address.connect(ray.get_runtime_context().get_node_id())
        line.settimeout(None)
        with _talk(line) as pipe:
            connection.answer_challenge(pipe, key)
            connection.deliver_challenge(pipe, key)
            pipe.send(self.number)
        work(self.number, self.build, Line(line))


class Rays(Pipes):
    """See `Executor`.

    Args:
        targets, drafter: picklable builders.
        address: of a running cluster (`ray start --head`); None: a new one on this machine, or the one that is connected to already.
        cpus, gpus: of each worker, less where the cluster has too few for all; threads: torch threads of each.
    Raises:
        BadOption: Ray is not installed.
    """

    def __init__(
        self, targets: Sequence[Builder], drafter: Builder | None, *, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0, threads: int = 1
    ):
        try:
            import ray
        except ImportError:
            raise BadOption("executor 'ray' needs Ray", next_step="pip install 'anydraft[ray]'") from None
        super().__init__(len(targets))
        self._ray, self._mine = ray, not ray.is_initialized()
        if self._mine:
            with _ranked() if address is None else contextlib.nullcontext():
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        builders = dict(enumerate(targets)) | ({DRAFTER: drafter} if drafter is not None else {})
        there, free = ray.cluster_resources(), ray.available_resources()
        # a processor that others have taken can be shared, and waiting for it would take until they end; a GPU must be had
        shares = {"num_cpus": min(cpus, share(cpus, there.get("CPU", 0.0), len(builders)), int(1000 * free.get("CPU", 0.0) / len(builders)) / 1000),
                  "num_gpus": share(gpus, there.get("GPU", 0.0), len(builders))}  # fmt: skip
        made = ray.remote(Actor).options(**shares)
        stored = {id(build): ray.put(build) for build in builders.values()}  # replicas have one builder, and its weights travel once
        self.actors = {n: made.remote(n, stored[id(build)], threads) for n, build in builders.items()}
        key = secrets.token_bytes(32)
        with tempfile.TemporaryDirectory(prefix="anydraft-") as folder, contextlib.ExitStack() as doors:  # a folder of ours, closed to other users
            far = doors.enter_context(socket.create_server((ray.util.get_node_ip_address(), 0), backlog=len(builders)))
            near = doors.enter_context(socket.socket(socket.AF_UNIX))
            near.bind(path := os.path.join(folder, "door"))
            near.listen(len(builders))
            here = Address(ray.get_runtime_context().get_node_id(), path, *far.getsockname()[:2])
            calls = {actor.serve.remote(here, key): n for n, actor in self.actors.items()}
            self._admit((near, far), key, calls, time.perf_counter() + _PATIENCE)
        self.greet(_PATIENCE)

    def _admit(self, doors: Sequence[socket.socket], key: bytes, calls: dict[Any, int], end: float) -> None:
        """Takes the actors' connections, until all are there, gone or too late."""
        with selectors.DefaultSelector() as bell:
            for door in doors:
                bell.register(door, selectors.EVENT_READ)
            while waiting := {call: n for call, n in calls.items() if n not in self._lines}:
                if rung := bell.select(0.2):
                    for one, _ in rung:
                        self._greeted(one.fileobj.accept()[0], key)  # type: ignore[union-attr]
                    continue
                ended, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
                late = [] if time.perf_counter() < end else [call for call in waiting if call not in ended]
                for call in [*ended, *late]:
                    number = calls.pop(call)
                    why = self._why(call) if call in ended else "no sign of it"
                    self._answers.append(Failed(number, None, f"its actor could not be made: {why}", "dead"))

    def _greeted(self, line: socket.socket, key: bytes) -> None:
        """A connection, if it is an actor of ours that is there."""
        line.setblocking(True)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _HANDSHAKE, 0))  # a stranger may say nothing
        try:
            with _talk(line) as pipe:
                connection.deliver_challenge(pipe, key)
                connection.answer_challenge(pipe, key)
                number = pipe.recv()
        except (OSError, EOFError, AuthenticationError):
            line.close()
            return
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
        self.add(number, Line(line))

    def _why(self, call: Any) -> str:
        try:
            self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return str(error).strip().splitlines()[-1]
        return "it ended"

    def close(self) -> None:
        """See `Executor.close`."""
        self.hang_up()
        for actor in self.actors.values():
            self._ray.kill(actor)
        self.actors = {}
        if self._mine and self._ray.is_initialized():
            self._ray.shutdown()


@contextlib.contextmanager
def _ranked() -> Iterator[None]:
    """A cluster that is started within ranks its workers like everybody; on a running one this is its owner's to say."""
    held = os.environ.get(_NICE)
    os.environ.setdefault(_NICE, "0")  # the daemons hand it on
    try:
        yield
    finally:
        if held is None:
            os.environ.pop(_NICE, None)


def share(asked: float, there: float, workers: int) -> float:
    """Of one resource for each worker, in thousandths: what was asked, or an even part of what is there; Ray would wait for more for ever.

    >>> share(1.0, 8.0, 3), share(1.0, 2.0, 3)
    (1.0, 0.666)
    """
    return asked if there <= 0 else min(asked, int(1000 * there / workers) / 1000)


def _talk(line: socket.socket) -> Any:
    """A connection of the standard library on the same socket, for the handshake; closing it leaves the socket open."""
    if line.family != socket.AF_UNIX:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection.Connection(os.dup(line.fileno()))
