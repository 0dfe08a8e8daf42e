"""State that belongs to one request: found by slot, and thrown away when the slot holds another request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from anydraft.core.records import Context, Request, Step

State = TypeVar("State")


class Memory(Generic[State]):
    """One `State` per request.

    Args:
        fresh: makes the state of a new request.
    """

    def __init__(self, fresh: Callable[[], State]):
        self.fresh = fresh
        self._held: dict[int, tuple[Request, State]] = {}
        self._waiting: list[tuple[Request, State]] = []

    def of(self, context: Context, b: int) -> State:
        """The state of row b. A slot that another request left behind starts afresh."""
        slot, request = int(context.slot[b]), context.requests[b]
        held = self._held.get(slot)
        if held is None or held[0] is not request:
            waiting = [state for asked, state in self._waiting if asked is request]
            self._waiting = [pair for pair in self._waiting if pair[0] is not request]
            held = self._held[slot] = (request, waiting[0] if waiting else self.fresh())
        return held[1]

    def rows(self, context: Context) -> list[State]:
        """The states of all rows."""
        return [self.of(context, b) for b in range(context.size)]

    def forget(self, step: Step) -> None:
        """Drops the requests that ended with this step."""
        for slot, end in zip(step.before.slot.tolist(), step.finish):
            if end is not None:
                self._held.pop(slot, None)

    def adopt(self, request: Request, state: State) -> None:
        """Gives a request, wherever it will run, the state that it had elsewhere."""
        self._held = {slot: pair for slot, pair in self._held.items() if pair[0] is not request}
        self._waiting.append((request, state))

    def find(self, request: Request) -> State | None:
        """The state of a request, None if it has none yet."""
        return next((state for asked, state in self if asked is request), None)

    def __iter__(self) -> Iterator[tuple[Request, State]]:
        yield from [*self._held.values(), *self._waiting]


__all__ = ["Memory"]
