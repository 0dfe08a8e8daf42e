"""Exact output laws of a parallel schedule under every interleaving, chosen by an adversary who sees everything.

Each state of coordinator and workers has two kinds of way out. Random decisions have probabilities; completions, cancels that come too late,
duplicates and delays are the adversary's. For every output this computes the least and the greatest probability that any adversary can give it
(a stochastic game, solved backwards with a memo on states). If both equal plain decoding's for every output, no timing can bias the law,
not even one that depends on the tokens.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anydraft.core.judge import TokenJudge
from anydraft.core.ledger import Ledger
from anydraft.core.messages import Answer, Cancel, Cancelled, Command, Drafted, Open, Run, Scored, Verify
from anydraft.core.processors import Laws
from anydraft.core.records import Context, Request
from anydraft.core.roles import Drafter, Rule, Target
from anydraft.core.stopping import Stopping
from anydraft.parallel.worker import Scorer, Writer
from anydraft.testing.exact import Enumerating, Output, Script

Bounds = dict[Output, tuple[float, float]]


@dataclass
class World:
    """A coordinator, the tasks that its workers are at, and answers that are on their way a second time."""

    coordinator: Any
    script: Script
    jobs: dict[int, tuple[Verify, bool]] = field(default_factory=dict)  # by worker; whether it was cancelled
    run: tuple[Run, tuple[int, ...], bool] | None = None
    echoes: list[Answer] = field(default_factory=list)
    posted: Drafted | None = None  # drawn by the drafter and not yet delivered: an adversary may let its token decide how long it travels
    duplicates: int = 0  # how many answers may still be given twice
    late: list[tuple[Run, tuple[int, ...]]] = field(default_factory=list)  # cancelled runs that may draw one more unit

    def obey(self, commands: list[Command]) -> None:
        """Books what the coordinator wants."""
        for order in commands:
            if isinstance(order, Verify):
                assert order.worker not in self.jobs, "a busy replica was given work"
                self.jobs[order.worker] = (order, False)
            elif isinstance(order, Run):
                self.run = (order, (), False)
            elif isinstance(order, Cancel) and order.worker >= 0:
                verify, _ = self.jobs[order.worker]
                if verify.task == order.task:
                    self.jobs[order.worker] = (verify, True)
            elif isinstance(order, Cancel) and self.run is not None and self.run[0].task == order.task:
                self.late.append(self.run[:2])
                self.run = None

    def fingerprint(self) -> tuple:
        """Equal worlds have equal futures."""
        epoch = self.coordinator.ledger.epoch
        jobs = tuple(sorted((v.epoch, v.start, v.drafts, c) for v, c in self.jobs.values()))  # replicas are alike
        run = self.run and (self.run[0].epoch, self.run[0].start, self.run[0].until, self.run[1])
        echoes = tuple(sorted((type(e).__name__, e.epoch, e.start, _told(e)) for e in self.echoes))  # type: ignore[union-attr]
        late = tuple((order.epoch, order.start, drafts) for order, drafts in self.late)
        posted = self.posted and (self.posted.epoch, self.posted.start, _told(self.posted))
        # keys of past epochs cannot be asked for again, so they do not tell two worlds apart
        front = self.coordinator.ledger.position
        keys = frozenset(key for key in self.script.keys if (key[1] >= front if key[0] == "path" else key[0] >= epoch))
        return (self.coordinator.fingerprint(), jobs, run, echoes, late, posted, self.duplicates, keys)


def _told(answer: Any) -> tuple:
    return tuple(node.token for node in answer.nodes) if isinstance(answer, Drafted) else (len(answer.rows),)


class Interleavings:
    """Solves the game for one request.

    Args:
        make: (ledger) -> coordinator.
        target, drafter, rule: parts whose answers depend on their arguments alone, as table models' do.
        duplicates: how many answers of a whole run may come twice, each at any time.
        ledger, judge: the classes that keep and decide; tests plant bugs in them.
    """

    def __init__(
        self,
        make: Callable[[Ledger], Any],
        target: Target,
        drafter: Drafter,
        rule: Rule,
        request: Request,
        *,
        duplicates: int = 0,
        ledger: Callable[..., Ledger] = Ledger,
        judge: Callable[..., TokenJudge] = TokenJudge,
    ):
        self.make, self.rule, self.request, self.duplicates, self.ledger, self.judge = make, rule, request, duplicates, ledger, judge
        self.scorer, self.drafter = Scorer(target), drafter
        self.scorer._contexts.open(Open(0, request, 0))
        self._solved: dict[tuple, Bounds] = {}
        self.most_in_flight = 0

    @property
    def states(self) -> int:
        """Distinct states met."""
        return len(self._solved)

    def gap(self, law: dict[Output, float]) -> float:
        """The largest difference from this law that an adversary can make to one output's probability."""
        bounds = self.bounds()
        return max(abs(p - law.get(output, 0.0)) for output in bounds.keys() | law.keys() for p in bounds.get(output, (0.0, 0.0)))

    def bounds(self) -> Bounds:
        """By output: the least and the greatest probability over all adversaries."""

        def first(script: Script) -> World:
            context = Context.start((self.request,))
            judge = self.judge(context, self.rule, Enumerating([script]), Stopping(self.request), Laws())
            world = World(self.make(self.ledger(judge, int(context.length), int(context.limit))), script, duplicates=self.duplicates)
            world.obey(world.coordinator.start())
            return world

        return self._chance(first)

    # -- chance ------------------------------------------------------------------------------------------------------

    def _chance(self, move: Callable[[Script], World]) -> Bounds:
        """Averages over every way in which the decisions of one move can fall."""
        todo: list[list[int]] = [[]]
        low: dict[Output, float] = defaultdict(float)
        high: dict[Output, float] = defaultdict(float)
        while todo:
            script = Script(choices=todo.pop())
            world = move(script)
            todo += script.untried
            weight, script.weight = script.weight, 1.0
            script.choices, script.taken, script.untried = [], 0, []
            for output, (least, most) in self._solve(world).items():
                low[output] += weight * least
                high[output] += weight * most
        return {output: (low[output], high[output]) for output in high}

    # -- the adversary -----------------------------------------------------------------------------------------------

    def _solve(self, world: World) -> Bounds:
        if world.coordinator.done:
            return {tuple(world.coordinator.ledger.tokens): (1.0, 1.0)}
        key = world.fingerprint()
        if key not in self._solved:
            self.most_in_flight = max(self.most_in_flight, len(world.jobs) + (world.run is not None or world.posted is not None))
            moves = self._moves(world)
            assert world.jobs or world.run or world.posted, "nothing is in flight and the request is open: a deadlock"
            options = [self._chance(lambda script, move=move: self._after(world, script, move)) for move in moves]
            outputs = set().union(*options)
            least = {o: min(option.get(o, (0.0, 0.0))[0] for option in options) for o in outputs}
            self._solved[key] = {o: (least[o], max(option.get(o, (0.0, 0.0))[1] for option in options)) for o in outputs}
        return self._solved[key]

    def _moves(self, world: World) -> list[Callable[[World], None]]:
        """Everything that may happen next."""
        moves: list[Callable[[World], None]] = []
        for worker, (_, cancelled) in world.jobs.items():
            for twice in [False, True][: 1 + (world.duplicates > 0)]:
                moves.append(lambda w, worker=worker, twice=twice: self._score(w, worker, twice))
            if cancelled:
                moves.append(lambda w, worker=worker: self._confirm(w, worker))
        if world.posted is not None:
            for twice in [False, True][: 1 + (world.duplicates > 0)]:
                moves.append(lambda w, twice=twice: self._post(w, twice))
        elif world.run is not None:
            moves.append(self._draw)
        for i in range(len(world.late)):
            moves.append(lambda w, i=i: self._draft_late(w, i))
        for i in range(len(world.echoes)):
            moves.append(lambda w, i=i: self._deliver(w, w.echoes.pop(i), False))
        return moves

    def _after(self, world: World, script: Script, move: Callable[[World], None]) -> World:
        """A copy of the world after one move, whose decisions follow the script."""
        ledger = world.coordinator.ledger
        # what never changes, and a laws cache keyed by the request's identity, is shared between worlds
        shared: list[Any] = [self.rule, self.request, *self.scorer.__dict__.values(), self.drafter, ledger.judge.laws]
        shared += [*ledger.rows.values(), *ledger.nodes.values(), *world.echoes, world.posted, getattr(world.coordinator, "run", None)]
        shared += [verify for verify, _ in world.jobs.values()] + [order for order, _ in world.late]
        shared += [world.run[0]] if world.run else []
        after = copy.deepcopy(world, {id(thing): thing for thing in shared} | {id(world.script): script})
        script.keys = set(world.script.keys)
        after.script = script
        move(after)
        return after

    def _deliver(self, world: World, answer: Answer, twice: bool) -> None:
        if twice:
            world.duplicates -= 1
            world.echoes.append(answer)
        before = list(world.coordinator.ledger.tokens)
        world.obey(world.coordinator.on(answer))
        world.coordinator.ledger.judge.steps.clear()
        assert world.coordinator.ledger.tokens[: len(before)] == before, "a decided token was rewritten"

    def _score(self, world: World, worker: int, twice: bool) -> None:
        order, _ = world.jobs.pop(worker)
        rows = self.scorer.score(order)
        self._deliver(world, Scored(order.task, worker, order.epoch, order.start, rows), twice)

    def _confirm(self, world: World, worker: int) -> None:
        order, _ = world.jobs.pop(worker)
        self._deliver(world, Cancelled(order.task, worker), False)

    def _unit(self, world: World, order: Run, drafts: tuple[int, ...]) -> Drafted:
        writer = Writer(self.drafter, Enumerating([world.script]))
        writer._contexts.open(Open(0, self.request, 0))
        return writer.unit(order, writer._contexts.at(order, drafts))

    def _draw(self, world: World) -> None:
        assert world.run is not None
        order, drafts, _ = world.run
        world.posted = self._unit(world, order, drafts)
        more = (*drafts, *(n.token for n in world.posted.nodes))
        world.run = None if world.posted.last else (order, more, False)

    def _post(self, world: World, twice: bool) -> None:
        answer, world.posted = world.posted, None
        assert answer is not None
        self._deliver(world, answer, twice)

    def _draft_late(self, world: World, i: int) -> None:
        order, drafts = world.late.pop(i)
        self._deliver(world, self._unit(world, order, drafts), False)
