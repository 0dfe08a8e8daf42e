"""Workers as processes of this machine, each with its own interpreter. Weights in host memory are shared, not copied, as torch's multiprocessing does."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import torch

from anydraft.core.messages import DRAFTER
from anydraft.parallel.executor import Builder
from anydraft.parallel.lines import Line
from anydraft.parallel.pipes import Pipes, work


class Processes(Pipes):
    """See `Executor`.

    Args:
        targets: one picklable builder per replica; drafter: the drafter's.
        threads: torch threads of each worker.
        by_host: the builders hold models on an accelerator, see `Packed`.
        patience: seconds in which all workers must have built their models.
    """

    def __init__(self, targets: Sequence[Builder], drafter: Builder | None, *, threads: int = 1, by_host: bool = False, patience: float = 300.0):
        super().__init__(len(targets))
        builders: dict[int, Builder] = dict(enumerate(targets)) | ({DRAFTER: drafter} if drafter is not None else {})
        if by_host:
            builders = {n: Packed(build) for n, build in builders.items()}
        fresh = torch.multiprocessing.get_context("spawn")  # a forked child would inherit torch's thread pools, locked
        self.processes: dict[int, Any] = {}
        for n, build in builders.items():
            ours, theirs = socket.socketpair()
            self.processes[n] = fresh.Process(target=_work, args=(n, build, theirs, threads), daemon=True)
            self.processes[n].start()
            theirs.close()
            self.add(n, Line(ours))
        self.greet(patience)

    def close(self) -> None:
        """See `Executor.close`."""
        self.hang_up()
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
        for process in self.processes.values():
            process.join(5)


class Packed:
    """A builder that travels with copies of its weights, by way of host memory; the worker puts them back on the device that they came from.

    The alternative, a handle to the parent's memory on the device, is refused in many virtual machines and containers, and fails only
    when a worker opens it. A copy costs memory on the device and some seconds at the start, and works wherever the models do.
    """

    def __init__(self, build: Builder):
        self.build = build

    def __call__(self) -> Any:
        return self.build()

    def __reduce__(self) -> tuple[Any, ...]:
        buffer = io.BytesIO()
        torch.save(self.build, buffer)
        return _unpacked, (buffer.getvalue(),)


def _unpacked(data: bytes) -> Builder:
    """Bytes of our own parent's, so any object may be in them."""
    return torch.load(io.BytesIO(data), weights_only=False)


def _work(number: int, build: Builder, line: socket.socket, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its children
    torch.set_num_threads(threads)
    work(number, build, Line(line))
    os._exit(0)
