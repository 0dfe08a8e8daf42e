"""What a worker does with a command, wherever it runs: a target replica scores, the drafter drafts.

A worker holds a copy of the request and is told the generated ids with every task, so a task needs no other task to have arrived. What it has
cached it finds by common prefix: tokens that it missed are fed in one chunk.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from anydraft.core.judge import chain, single
from anydraft.core.messages import Command, Drafted, Node, Open, Run, Scored, Teach, Verify
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Size
from anydraft.core.roles import Drafter, NoiseSource, Target
from anydraft.parallel.inbox import Asked, Never

_HOST = torch.device("cpu")  # a draft is judged where the coordinator is


class Contexts:
    """The request that a worker is at, as provisional contexts."""

    def __init__(self, max_length: int | None):
        self.max_length = max_length
        self.key: int | None = None
        self._start: Context | None = None

    def open(self, order: Open) -> Context:
        """Begins a request."""
        self.key, self._start = order.key, Context.start((order.request,), [order.slot], self.max_length)
        return self._start

    def at(self, order: Verify | Run, drafts: tuple[int, ...] = ()) -> Context:
        """The ids that the command names, in its epoch."""
        if self._start is None or order.key != self.key:
            raise LookupError(f"request {order.key} was never opened here")
        context = self._start.extended([[*order.behind, *drafts]])
        return dataclasses.replace(context, step=torch.tensor([order.epoch]))

    def further(self, context: Context, tokens: tuple[int, ...]) -> Context:
        """The same context with more ids behind it, in the same buffer."""
        start = int(context.length)
        context.ids.numpy()[0, start : start + len(tokens)] = tokens
        return dataclasses.replace(context, length=torch.tensor([start + len(tokens)]))


class Scorer:
    """A target replica at work."""

    def __init__(self, target: Target):
        self.target = target
        self._contexts = Contexts(getattr(target, "max_length", None))

    def do(self, order: Command, cancelled: Asked | None = None) -> Iterator[Scored]:
        """The answers to one command. Raises Stale if the target itself looked and saw that it was cancelled."""
        if isinstance(order, Open):
            self._contexts.open(order)
        elif isinstance(order, Verify):
            mark = time.perf_counter()
            _watch(self.target, cancelled or Never())
            rows = self.score(order)
            yield Scored(order.task, order.worker, order.epoch, order.start, rows, time.perf_counter() - mark)

    def score(self, order: Verify) -> Tensor:
        """f[1 + drafts, V] on the host."""
        scores = self.target.score(self._contexts.at(order), chain(order.drafts))
        return scores.logits[0].detach().cpu()


class Writer:
    """The drafter at work."""

    def __init__(self, drafter: Drafter, noise: NoiseSource | None = None):
        self.drafter, self.noise = drafter, noise or Keyed()
        self._contexts = Contexts(None)
        self._laws = True  # whether the open request's nodes bring theirs

    def do(self, order: Command, cancelled: Asked | None = None) -> Iterator[Drafted]:
        """The answers to one command: for a `Run`, one per unit until it ends or is cancelled."""
        if isinstance(order, Open):
            context, self._laws = self._contexts.open(order), order.laws
            _tell(self.drafter, "open", context)
        elif isinstance(order, Teach):
            _tell(self.drafter, "keep", order.step)
        elif isinstance(order, Run):
            cancelled = cancelled or Never()
            _watch(self.drafter, cancelled)
            context = self._contexts.at(order)
            while True:
                yield (answer := self.unit(order, context))
                if answer.last or cancelled():
                    return
                context = self._contexts.further(context, tuple(node.token for node in answer.nodes))

    def unit(self, order: Run, context: Context) -> Drafted:
        """The next nodes of a run behind this context."""
        mark, start = time.perf_counter(), int(context.length)
        depth = torch.tensor([min(order.unit, order.until - start)])
        draft = self.drafter.propose(context, Size(depth=depth, nodes=depth), self.noise.at(context))
        eos = context.requests[0].eos
        nodes: list[Node] = []
        ended = False
        for i, (token, live) in enumerate(zip(draft.tokens.tolist()[0], draft.live.tolist()[0])):
            if not live or ended:
                break
            nodes.append(Node(token, single(draft, i).on(_HOST) if self._laws else None))
            ended = token < 0 or token in eos  # nothing can follow an empty draw, and nothing that counts an end
        short = len(nodes) < int(depth)  # the drafter has no more to say in this epoch
        last = ended or short or start + len(nodes) >= order.until
        return Drafted(order.task, order.epoch, start, tuple(nodes), last, time.perf_counter() - mark)


def _watch(part: Any, cancelled: Asked) -> None:
    """Lets a part that can leave its forward early know how to ask."""
    for one in (part, getattr(part, "model", None)):
        hear = getattr(one, "watch", None)
        if hear is not None:
            hear(cancelled)


def _tell(part: Any, verb: str, what: object) -> None:
    hear = getattr(part, verb, None)
    if hear is not None:
        hear(what)
