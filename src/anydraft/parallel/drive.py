"""Runs a coordinator on an executor, with the same signature as the sequential schedule: steps come out as positions are decided.

Everything that can go wrong with a worker arrives as a message. A worker that says nothing for too long is reported by the watchdog here;
when no replica is left, the caller's own target takes over in this thread.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from anydraft.core.errors import WrongPair
from anydraft.core.judge import TokenJudge, header
from anydraft.core.law import Dense
from anydraft.core.ledger import Ledger
from anydraft.core.messages import DRAFTER, Answer, Cancel, Cancelled, Command, Drafted, Failed, Joined, Open, Run, Scored, Tally, Teach, Verify
from anydraft.core.processors import Laws
from anydraft.core.records import Context, Request, Step
from anydraft.core.roles import Control, Drafter, NoiseSource, Rule, Target
from anydraft.core.stopping import Stopping
from anydraft.parallel.executor import Executor
from anydraft.parallel.worker import Scorer

Refill = Callable[[Context | None], Context | None]
_FIRST_ANSWER = 60.0  # seconds before the first answer of a worker is overdue: a cold start and a long prompt take their time
_SLACK = 20.0  # later ones: as many times the slowest answer so far
_LEAST = 5.0  # but never less than this
_AFTERWARDS = 0.001  # seconds that cancels wait behind new work: whoever is cancelled wakes up, and takes a core from those who start


def check(rule: Any, drafter: Any) -> None:
    """Raises WrongPair if a parallel schedule cannot run these parts: blocks have no fixed borders here, so a decision is one token's."""
    if header(rule, "Judges") != "token" and type(rule).__name__ != "Match":
        raise WrongPair(f"{type(rule).__name__} cannot run in a parallel schedule", expected="a rule that judges token by token: speculative_sampling, match")
    if not drafter.chain:
        raise WrongPair(f"{type(drafter).__name__} drafts a tree here, and a parallel schedule runs on chains", next_step="Leave out branching")


@dataclasses.dataclass(slots=True)
class Spent:
    """What a run cost, over all its requests."""

    tally: Tally = dataclasses.field(default_factory=Tally)
    wall: float = 0.0
    busy: dict[int, float] = dataclasses.field(default_factory=dict)
    tokens: int = 0

    def as_dict(self, replicas: int) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        devices = replicas + 1
        plain = dataclasses.asdict(self.tally)
        idle = 1 - sum(self.busy.values()) / (devices * self.wall) if self.wall else 0.0
        return plain | {
            "replicas": replicas,
            "idle_share": max(0.0, idle),
            "tokens_per_s_per_device": self.tokens / self.wall / devices if self.wall else 0.0,
            "busy_s": {("drafter" if n == DRAFTER else str(n)): s for n, s in sorted(self.busy.items())},
        }


class Parallel:
    """A schedule: call it as `sequential` is called.

    Args:
        coordinator: the class, DSI or PEARL.
        executor: where the workers are.
        lookahead: k.
        patience: seconds after which a silent worker is given up; None: from what it took so far.
    """

    def __init__(self, coordinator: Any, executor: Executor, lookahead: int, *, patience: float | None = None):
        self.coordinator, self.executor, self.lookahead, self.patience = coordinator, executor, lookahead, patience
        self.spent = Spent()
        self._lost: set[int] = set()  # workers that are gone for good
        self._silent: set[int] = set()  # workers that owe an answer and may yet give it
        self._slowest: dict[int, float] = {}
        self._cancels: list[Cancel] = []  # of replicas, not sent yet
        self._until = 0.0  # when they will be

    def __call__(
        self, target: Target, drafter: Drafter, rule: Rule, control: Control, noise: NoiseSource, refill: Refill, stopping: dict[int, Stopping]
    ) -> Iterator[Step]:
        """Yields every step until no request is open; requests run one after another. `control` is not asked: k is fixed."""
        check(rule, drafter)
        laws = Laws()
        learns = hasattr(drafter, "keep")
        unit = 1 if tuple(getattr(drafter, "kinds", ())) == ("independent",) else self.lookahead
        self.spent = Spent()
        context = refill(None)
        while context is not None:
            one, rest = context.keep_rows([0]), context.keep_rows(list(range(1, context.size)))
            tally = Tally()
            judge = TokenJudge(one, rule, noise, stopping[int(one.slot)], laws, lambda t=tally: {"target": t.verifications, "draft": t.drafted_tokens})
            yield from self._request(judge, tally, target, unit, learns)
            context = refill(rest)

    def _request(self, judge: TokenJudge, tally: Tally, target: Target, unit: int, learns: bool) -> Iterator[Step]:
        context = judge.context
        ledger = Ledger(judge, int(context.length), int(context.limit))
        if DRAFTER in self._lost:
            ledger.lose_drafter()
        key = self.executor.tasks + 1
        made = self.coordinator(ledger, self.executor.replicas, self.lookahead, unit=unit, key=key)
        made.tally = made.crew.tally = tally
        made.crew.resume(key, {n for n in self._lost | self._silent if n >= 0})
        opened = Open(key, bare(context.requests[0]), int(context.slot), laws=judge.asks)
        local = _Local(target, opened)
        began = self.executor.now
        due: dict[int, tuple[int, float]] = {}
        self.executor.send(opened)
        try:
            self._obey(made.start(), due, local)
            while not made.done:
                if made.crew.starved:
                    self._give_up_on_replicas(made, due, local)
                answer = local.answer() or self._receive(due)
                self._heard(answer, due)
                self._obey(made.on(answer), due, local)
                yield from self._steps(judge, learns)
        finally:
            self._cancel()
            for worker, (task, _) in due.items():
                self.executor.send(Cancel(task, worker, ledger.epoch))
            self.executor.tasks = made.crew.number()
            self._account(made.tally, self.executor.now - began, len(ledger.tokens), local)

    def _steps(self, judge: TokenJudge, learns: bool) -> Iterator[Step]:
        while judge.steps:
            step = judge.steps.pop(0)
            if learns and DRAFTER not in self._lost:
                self.executor.send(Teach(_bare_step(step)))
            yield step

    # -- messages ----------------------------------------------------------------------------------------------------

    def _obey(self, orders: list[Command], due: dict[int, tuple[int, float]], local: _Local) -> None:
        new_work = any(isinstance(order, Verify) for order in orders)
        for order in orders:
            if new_work and isinstance(order, Cancel) and order.worker != DRAFTER:
                self._cancels.append(order)
                self._until = self.executor.now + _AFTERWARDS
                continue
            if isinstance(order, (Verify, Run)):
                if order.worker == _Local.NUMBER:
                    local.order = order  # type: ignore[assignment]
                    continue
                due[order.worker] = (order.task, self.executor.now)
            elif isinstance(order, Cancel) and order.worker == DRAFTER:
                due.pop(DRAFTER, None)
            self.executor.send(order)

    def _cancel(self) -> None:
        while self._cancels:
            self.executor.send(self._cancels.pop())

    def _receive(self, due: dict[int, tuple[int, float]]) -> Answer:
        """The next answer, or the watchdog's word about a worker that owes one."""
        while True:
            first = min(((since + self._limit(w), w) for w, (_, since) in due.items()), default=None)
            left = 1.0 if first is None else min(1.0, max(0.001, first[0] - self.executor.now))
            if self._cancels:
                left = min(left, max(0.0, self._until - self.executor.now))
            answer = self.executor.receive(left)
            if self._cancels and self.executor.now >= self._until:
                self._cancel()
            if answer is not None:
                return answer
            if first is not None and self.executor.now >= first[0]:
                task, since = due.pop(first[1])
                return Failed(first[1], task, f"no answer in {self.executor.now - since:.1f} s", "silent")

    def _limit(self, worker: int) -> float:
        if self.patience is not None:
            return self.patience
        seen = self._slowest.get(worker)
        return _FIRST_ANSWER if seen is None else max(_LEAST, _SLACK * seen)

    def _heard(self, answer: Answer, due: dict[int, tuple[int, float]]) -> None:
        worker = getattr(answer, "worker", None)
        seconds = getattr(answer, "seconds", 0.0)
        if worker is None or isinstance(answer, Joined):
            return
        self.spent.busy[worker] = self.spent.busy.get(worker, 0.0) + seconds
        if isinstance(answer, (Scored, Drafted)):
            self._slowest[worker] = max(seconds, self._slowest.get(worker, 0.0))
        held = due.get(worker)
        if held is not None and getattr(answer, "task", None) in (held[0], None):
            if isinstance(answer, Drafted) and not answer.last:
                due[worker] = (held[0], self.executor.now)
            elif isinstance(answer, (Scored, Cancelled, Drafted, Failed)):
                del due[worker]
        if not isinstance(answer, Failed):
            self._silent.discard(worker)
        else:
            if answer.state == "silent":
                self._silent.add(worker)
            if answer.state == "dead" or (answer.state == "silent" and worker == DRAFTER):
                self._lost.add(worker)
            if worker == DRAFTER:
                warnings.warn(f"the drafter was lost ({answer.reason}); decoding plainly from here on", stacklevel=2)

    def _give_up_on_replicas(self, made: Any, due: dict[int, tuple[int, float]], local: _Local) -> None:
        if local.hired:
            return
        warnings.warn("no target replica is left; decoding with the target of this process", stacklevel=2)
        local.hired = True
        self._obey(made.on(Joined(_Local.NUMBER)), due, local)

    def _account(self, tally: Tally, wall: float, tokens: int, local: _Local) -> None:
        total = self.spent.tally
        for name in ("verifications", "wasted_verifications", "cancelled", "stale_answers", "drafted_tokens", "wasted_drafts"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.failures += tally.failures
        self.spent.wall += wall
        self.spent.tokens += tokens


class _Local:
    """The caller's own target as the last replica."""

    NUMBER = 1_000_000

    def __init__(self, target: Target, opened: Open):
        self._target, self._opened, self._scorer = target, opened, None
        self.order: Verify | None = None
        self.hired = False

    def answer(self) -> Answer | None:
        """Scores what is asked, now."""
        if self.order is None:
            return None
        if self._scorer is None:
            self._scorer = Scorer(self._target)
            list(self._scorer.do(self._opened))
        order, self.order = self.order, None
        return next(self._scorer.do(order))


def _bare_step(step: Step) -> Step:
    """The step with requests that can travel."""
    requests = tuple(bare(r) for r in step.before.requests)
    before, after = (dataclasses.replace(c, requests=requests) for c in (step.before, step.after))
    return dataclasses.replace(step, before=before, after=after, scores=dataclasses.replace(step.scores, law=Dense(torch.zeros(1, 0, 0))))


def bare(request: Request) -> Request:
    """The request without the user's objects: they stay with the judge, and need not survive pickling."""
    return dataclasses.replace(request, logits_processor=(), stopping_criteria=())


def latencies(target: Target, drafter_model: Any, prompt: torch.Tensor, repeats: int = 5) -> tuple[float, float]:
    """Median seconds of one target and one drafter forward on one new token behind this prompt."""
    context = Context.start((Request(prompt=prompt, max_new_tokens=repeats + 2),))
    spent: tuple[list[float], list[float]] = ([], [])
    scorer = Scorer(target)
    list(scorer.do(Open(0, context.requests[0], 0)))
    for n in range(repeats + 1):
        behind = tuple(int(prompt[-1]) for _ in range(n))
        mark = time.perf_counter()
        scorer.score(Verify(n, 0, 0, 0, len(prompt) + n, behind, ()))
        middle = time.perf_counter()
        made = drafter_model.next(context.extended([list(behind)]))
        if made.device.type != "cpu":  # there a call returns before its work is done; a score has been waited for, because its rows are on the host
            torch.accelerator.synchronize(made.device)
        spent[0].append(middle - mark)
        spent[1].append(time.perf_counter() - middle)
    return statistics.median(spent[0][1:]), statistics.median(spent[1][1:])
