"""A virtual clock: the coordinator runs for real, its workers only take time, on simpy's event loop. Exact and reproducible."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

from anydraft.core.errors import BadOption
from anydraft.core.messages import DRAFTER, Answer, Cancel, Cancelled, Command, Drafted, Node, Run, Scored, Verify

_FIRST = 1e-9  # of two things that happen at once a draft is first, whatever rounding says


class VirtualClock:
    """An executor whose workers answer after given times.

    Args:
        target_s, draft_s: seconds of one verification, whatever its width, and of one drafted token.
        preempt: whether a cancel frees a replica at once; otherwise it is busy until its forward ends, and the drafter too.
        score: rows for a verification; None where a trace decides.
        draft: the units of a run; None where a trace decides.
    Raises:
        BadOption: simpy is not installed.
    """

    def __init__(
        self,
        target_s: float,
        draft_s: float,
        *,
        preempt: bool = True,
        score: Callable[[Verify], object] | None = None,
        draft: Callable[[Run], Iterator[Drafted]] | None = None,
    ):
        self.target_s, self.draft_s, self.preempt = target_s, draft_s, preempt
        self._score = score or (lambda order: _Rows(1 + len(order.drafts)))
        self._draft = draft or _units
        try:
            import simpy
        except ImportError:
            raise BadOption("simulations need simpy", next_step="pip install 'anydraft[plan]'") from None
        self._loop = simpy.Environment()
        self._inbox: deque[Answer] = deque()
        self._live: dict[int, int] = {}  # the task that each worker is at
        self.busy: dict[int, float] = {}
        self._began: dict[int, float] = {}
        self._free_at = 0.0  # when a drafter that cannot be interrupted ends its last forward

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.now

    def send(self, order: Command) -> None:
        """Takes a command."""
        if isinstance(order, Verify):
            self._live[order.worker], self._began[order.worker] = order.task, self.now
            self._after(self.target_s, lambda: self._scored(order))
        elif isinstance(order, Run):
            self._live[DRAFTER] = order.task
            self._unit(order, self._draft(order), max(0.0, self._free_at - self.now))
        elif isinstance(order, Cancel) and self._live.get(order.worker) == order.task:
            if order.worker == DRAFTER:
                del self._live[DRAFTER]
            elif self.preempt:
                self._end(order.worker)
                self._inbox.append(Cancelled(order.task, order.worker))

    def receive(self) -> Answer | None:
        """The next answer, after moving the clock to it; None if nothing is under way."""
        while not self._inbox:
            if self._loop.peek() == math.inf:
                return None
            self._loop.step()
        return self._inbox.popleft()

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.timeout(seconds).callbacks.append(lambda _: then())  # type: ignore[union-attr]

    def _end(self, worker: int) -> None:
        del self._live[worker]
        self.busy[worker] = self.busy.get(worker, 0.0) + self.now - self._began[worker]

    def _scored(self, order: Verify) -> None:
        if self._live.get(order.worker) == order.task:
            self._end(order.worker)
            self._inbox.append(Scored(order.task, order.worker, order.epoch, order.start, self._score(order), self.target_s))  # type: ignore[arg-type]

    def _unit(self, order: Run, units: Iterator[Drafted], wait: float = 0.0) -> None:
        answer = next(units)
        seconds = self.draft_s * max(1, len(answer.nodes))
        if not self.preempt:
            self._free_at = self.now + wait + seconds

        def post() -> None:
            if self._live.get(DRAFTER) == order.task:
                self.busy[DRAFTER] = self.busy.get(DRAFTER, 0.0) + seconds
                self._inbox.append(answer)
                if answer.last:
                    del self._live[DRAFTER]
                else:
                    self._unit(order, units)

        self._after(wait + seconds * (1 - _FIRST), post)


class _Rows:
    """As many rows as a verification gives, without anything in them."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> None:
        return None


_NODE = (Node(0),)


def _units(order: Run) -> Iterator[Drafted]:
    for place in range(order.start, order.until):
        yield Drafted(order.task, order.epoch, place, _NODE, place + 1 == order.until)
