"""Parts for tests of executors, importable by their workers."""

import os
import time

import torch

from anydraft.control.fixed import Fixed
from anydraft.core.messages import DRAFTER, Failed, Scored
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Request
from anydraft.core.stopping import Stopping
from anydraft.drafters.draft_model import DraftModel
from anydraft.engine.table import TableModel
from anydraft.parallel.drive import Parallel
from anydraft.parallel.latency import Scripted, Slowed
from anydraft.rules.match import Match
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.schedules.sequential import sequential

WIDTH = 12


def table_target():
    return TableModel(WIDTH, seed=1, window=3)


def table_drafter():
    return DraftModel(TableModel(WIDTH, seed=1, spread=0.8, window=3, bias=torch.linspace(0, 0.5, WIDTH, dtype=torch.float64)), WIDTH)


class Injected:
    """Slow scripted parts with a given acceptance, as picklable builders."""

    def __init__(self, seconds: float, acceptance: float | None):
        self.seconds, self.acceptance = seconds, acceptance

    def __call__(self):
        model = Slowed(Scripted(self.acceptance), self.seconds)
        return model if self.acceptance is None else DraftModel(model, model.vocab_size)


class Faulty:
    """A part that breaks at its n-th call: raises, hangs, is late, or ends its thread or process."""

    def __init__(self, build, how: str, at: int):
        self.build, self.how, self.at = build, how, at

    def __call__(self):
        return _Breaking(self.build(), self.how, self.at)


class _Breaking:
    def __init__(self, inner, how, at):
        self.inner, self.how, self.left = inner, how, at
        self.cancelled = lambda: False

    def __getattr__(self, name):
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def score(self, *arguments):
        return self._do(self.inner.score, arguments)

    def propose(self, *arguments):
        return self._do(self.inner.propose, arguments)

    def _do(self, work, arguments):
        self.left -= 1
        if self.left < 0:
            if self.how == "raise":
                raise RuntimeError("broken on purpose")
            if self.how == "exit":
                raise SystemExit
            if self.how == "kill":
                os._exit(9)
            if self.how == "hang":
                time.sleep(3600)
            if self.how == "late":
                time.sleep(0.15)
        return work(*arguments)


class Echoing:
    """An executor around another that gives some answers twice, the second time later."""

    def __init__(self, inner, every: int = 3):
        self.inner, self.every, self.seen, self.echoes = inner, every, 0, []

    tasks = 0
    replicas = property(lambda self: self.inner.replicas)
    now = property(lambda self: self.inner.now)

    def send(self, order):
        self.inner.send(order)

    def close(self):
        self.inner.close()

    def receive(self, timeout=None):
        if len(self.echoes) > 2:
            return self.echoes.pop(0)
        answer = self.inner.receive(timeout)
        if answer is not None and not isinstance(answer, Failed):
            self.seen += 1
            if self.seen % self.every == 0:
                self.echoes.append(answer)
        return answer


def request(tokens=24, temperature=1.0, seed=0, **options) -> Request:
    return Request(prompt=torch.tensor([3, 1, 4]), max_new_tokens=tokens, temperature=temperature, seed=seed, **options)


def decode(schedule, requests, target, drafter, rule=None):
    """Generated ids of each request by a schedule that is called as `sequential` is."""
    stopping = {slot: Stopping(r) for slot, r in enumerate(requests)}
    start = Context.start(tuple(requests))

    def refill(context):
        return start if context is None else context if context.size else None

    for _ in schedule(target, drafter, rule or SpeculativeSampling(), Fixed(3), Keyed(), refill, stopping):
        pass
    return [stopping[slot].ids for slot in range(len(requests))]


def plain(requests, target, rule=None):
    from anydraft.drafters.none import NoDraft

    stopping = {slot: Stopping(r) for slot, r in enumerate(requests)}
    start = Context.start(tuple(requests))

    def refill(context):
        return start if context is None else context if context.size else None

    for _ in sequential(target, NoDraft(), rule or Match(), Fixed(0), Keyed(), refill, stopping):
        pass
    return [stopping[slot].ids for slot in range(len(requests))]


__all__ = ["DRAFTER", "Scored", "Parallel"]
