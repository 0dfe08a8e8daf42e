"""What is known about the undecided positions of one request, and the one place where a position is decided.

A position is decided once, by the first row that arrives for it, on exactly the ids in front of it. If it has a draft, or will get one in this
epoch, that draft's test decides it: a token drawn from a row alone, because its draft happened to be late, would make the output depend on the clock
(total variation 0.23 in a toy). The epoch counts the tokens that the target put in itself (after a rejection, or where no draft comes). So it is
a function of the path, and so is every key of noise: neither timing nor faults of a replica change a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from anydraft.core.messages import Node


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided in one go."""

    tokens: list[int]  # emitted, in order, after stopping
    turned: bool  # the last decision was the target's own token: every draft behind it is void
    finish: str | None = None  # why the request ended with the last token


class Judge(Protocol):
    """Decides runs of positions: by a rule and tensors, or by a recorded trace."""

    def decide(self, epoch: int, position: int, rows: Sequence[Any], nodes: Sequence[Node | None]) -> Outcome:
        """Judges from `position` on until one draft is refused. A node of None means that the target draws there."""
        ...

    def drafts(self) -> bool:
        """Whether this epoch may speculate at all; asked once per epoch."""
        ...


class Ledger:
    """The state that DSI and PEARL share.

    Args:
        judge: decides.
        position: the request's length, the first undecided position.
        limit: the length at which it ends.
    """

    def __init__(self, judge: Judge, position: int, limit: int):
        self.judge, self.first, self.position, self.limit = judge, position, position, limit
        self.epoch = 0
        self.finish: str | None = None
        self.tokens: list[int] = []  # decided
        self.drafting = True  # False once the drafter is lost
        self._begin()

    def _begin(self) -> None:
        self.rows: dict[int, Any] = {}
        self.nodes: dict[int, Node] = {}
        self.ahead: list[int] = []  # drafted ids behind `position`, as far as they are known without a gap
        # the first position that gets no draft in this epoch; the last position of a request never needs one
        self.end = max(self.position, self.limit - 1) if self.drafting and self.judge.drafts() else self.position

    @property
    def open(self) -> bool:
        """Whether the request goes on."""
        return self.finish is None

    @property
    def reach(self) -> int:
        """The first position behind the known drafts."""
        return self.position + len(self.ahead)

    def current(self, epoch: int) -> bool:
        """Whether work of this epoch still counts."""
        return self.open and epoch == self.epoch

    def behind(self, position: int) -> tuple[int, ...]:
        """Generated ids in front of a position that is not beyond `reach`."""
        return (*self.tokens, *self.ahead[: position - self.position])

    def drafted(self, start: int, reach: int) -> tuple[int, ...]:
        """Known draft ids of the positions from start to reach."""
        return tuple(self.ahead[start - self.position : reach - self.position])

    def add_nodes(self, epoch: int, start: int, nodes: Sequence[Node], last: bool) -> bool:
        """Notes drafts; a position keeps the first it got. False if they are stale."""
        if not self.current(epoch):
            return False
        for place, node in enumerate(nodes, start):
            if self.position <= place < self.end and place not in self.nodes:
                self.nodes[place] = node
        ending = start + len(nodes)
        if last and self.position <= ending < self.end:
            self.end = ending
        while (node := self.nodes.get(self.reach)) is not None and node.token >= 0:
            self.ahead.append(node.token)
        return True

    def add_rows(self, epoch: int, start: int, rows: Any) -> bool:
        """Notes rows; a position keeps the first it got. False if they are stale."""
        if not self.current(epoch):
            return False
        for place in range(max(start, self.position), start + len(rows)):
            self.rows.setdefault(place, rows[place - start])
        return True

    def lose_drafter(self) -> None:
        """No further draft will come, in this epoch or later; those that came are still judged."""
        self.drafting = False
        place = self.position
        while place in self.nodes:
            place += 1
        self.end = min(self.end, place)

    def advance(self) -> Outcome | None:
        """Decides every position that can be decided; None if there is none."""
        rows, nodes = [], []
        place = self.position
        while self.open and place in self.rows:
            node = self.nodes.get(place)
            if node is None and place < self.end:
                break
            rows.append(self.rows[place])
            nodes.append(node)
            place += 1
            if node is None or node.token < 0:
                break
        if not rows:
            return None
        outcome = self.judge.decide(self.epoch, self.position, rows, nodes)
        for old in range(self.position, self.position + len(outcome.tokens)):
            self.rows.pop(old, None)
            self.nodes.pop(old, None)
        del self.ahead[: len(outcome.tokens)]
        self.position += len(outcome.tokens)
        self.tokens += outcome.tokens
        self.finish = outcome.finish
        if self.open and outcome.turned:
            self.epoch += 1
            self._begin()
        return outcome
