"""Auto: look ahead as far as it pays by measured time, and not at all where it does not pay.

Source:   our own: the value of further drafts as in `survival`, under an account that bounds what speculation may ever lose
State:    per request: acceptance by the drafter's probability and by depth, and the account; nothing on the drafter
Cost:     one bucket look-up per drafted token, some scalars a step; switched off, two comparisons a step and no prefill of the drafter
Differs:  a request at a temperature is decided by frozen costs and its own steps: its tokens depend on neither clock nor neighbours;
          greedy requests, whose tokens cannot change, also use the clock, the batch, and what earlier requests found out
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydraft.core.costs import Costs
from anydraft.core.lookahead import threshold
from anydraft.core.memory import Memory
from anydraft.core.records import Context, Level, Request, Size, Step
from anydraft.core.reliability import Reliability, watched
from anydraft.core.tree import reaches

START, TRIAL, RATE, MOST, SHARE = 2.0, 1.5, 0.008, 6.0, 0.2
"""The account, in plain steps: its start, the least start after a request that lost, its gain per token, its ceiling, and the share
of what was saved that may be risked again."""

CURVE = 32  # depths whose acceptance is counted


@dataclass(slots=True)
class Experience:
    """What earlier greedy requests found out about a pair; the caller keeps it from one call to the next."""

    balance: float | None = None  # the account at the end of the last request, None before the first
    learned: Reliability | None = None  # the acceptance that it saw


@dataclass(slots=True)
class _State:
    reliability: Reliability = field(default_factory=Reliability)
    stood: list[float] = field(default_factory=lambda: [1.5] * CURVE)  # of the tokens judged at each depth, as if some had stood already
    judged: list[float] = field(default_factory=lambda: [2.0] * CURVE)
    balance: float = START  # plain steps that speculation may still lose
    saved: float = 0.0  # plain steps that speculation has saved, less those that it has lost
    tokens: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    on: bool = True
    read: int = 0  # ids that the drafter has read
    stop: float | None = None  # the chance of standing below which a draft ends
    asks: bool = True  # whether the drafter asks after each level
    tree: bool = False  # whether it drafts trees
    notes: list[str] = field(default_factory=list)


class Auto:
    """Args:
    num_assistant_tokens: nodes of a tree, and what a drafter that copies is first asked for.
    max_assistant_tokens: where a chain ends anyway.
    costs: frozen, for requests at a temperature; None assumes.
    measured: on this machine, for greedy requests; None: they measure on the way.
    experience: shared between the calls of one pair; greedy requests read and write it.
    """

    def __init__(
        self,
        num_assistant_tokens: int = 10,
        max_assistant_tokens: int = 16,
        costs: Costs | None = None,
        measured: Costs | None = None,
        experience: Experience | None = None,
    ):
        self.nodes, self.most = num_assistant_tokens, max_assistant_tokens
        self.frozen, self.measured, self.experience = costs or Costs.assumed(), measured, experience or Experience()
        self._clock = _Clock()
        self._memory: Memory[_State] = Memory(_State)
        self._levels: list[Level] = []

    def open(self, context: Context) -> None:
        """Decides before the drafter's prefill whether a new request starts with speculation."""
        costs, _ = self._costs(context)
        for b in range(context.size):
            if int(context.step[b]) == 0:
                self._begin(self._memory.of(context, b), context, b, costs)

    def _begin(self, state: _State, context: Context, b: int, costs: Costs) -> None:
        if context.requests[b].temperature == 0 and self.experience.balance is not None:
            state.balance = max(self.experience.balance, TRIAL)
            if self.experience.learned is not None:
                state.reliability = self.experience.learned.faded()
        if _ceiling(costs, self.most) < 1.02:
            state.balance = -float("inf")
            state.on = False
            state.notes.append("speculation off: even if every draft token stood, drafting would take longer than it saves")
        elif state.balance < self._price(state, context, b, costs):
            state.on = False
            state.notes.append("speculation off from the start: earlier requests lost time with this drafter, or its prefill costs too much")

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        costs, batch = self._costs(context)
        if self.measured is None and self._clock.wants_plain(context):
            return Size(depth=torch.zeros(context.size, dtype=torch.int64), nodes=torch.zeros(context.size, dtype=torch.int64))
        states = self._memory.rows(context)
        for b, state in enumerate(states):
            if not state.on and state.balance >= self._price(state, context, b, costs):
                state.on = True
                state.notes.append(f"speculation tried again after {int(context.length[b]) - len(context.requests[b].prompt)} tokens")
        if not any(state.on for state in states):
            none = torch.zeros(context.size, dtype=torch.int64)
            return Size(depth=none, nodes=none)
        depth = torch.tensor([self._depth(state, costs, batch) if state.on else 0 for state in states])
        nodes = torch.tensor([self.nodes if state.tree else int(k) for state, k in zip(states, depth)]).masked_fill(depth == 0, 0)
        return Size(depth=depth, nodes=nodes, go_on=self._asking(states, costs, batch))

    def _depth(self, state: _State, costs: Costs, batch: int) -> int:
        """A drafter that asks is stopped on the way; one that copies is told before, by how deep its tokens have stood."""
        if state.asks or state.tree:
            return self.most
        chance, curve = 1.0, []
        for stood, judged in zip(state.stood[: max(self.nodes, self.most)], state.judged):
            chance *= stood / judged
            curve.append(chance)
        return max(1, costs.best(curve, batch)[0])

    def _asking(self, states: list[_State], costs: Costs, batch: int):
        stops = torch.tensor([self._stop(state, costs, batch) for state in states])
        rates = torch.tensor([state.reliability.rates() for state in states])
        levels = self._levels = []
        chance = torch.ones(len(states))

        def go_on(context: Context, level: Level) -> Tensor:
            nonlocal chance
            levels.append(level)
            bins = states[0].reliability.bins(level.prob)
            chance = chance * rates.gather(1, bins[:, None]).squeeze(1)
            return chance >= stops

        return go_on

    def _stop(self, state: _State, costs: Costs, batch: int) -> float:
        if state.stop is None or state.steps % 4 == 0:
            plain = costs.step(0, batch)
            pace = (8 + state.tokens) / (8 * plain + state.seconds)
            rates, shares = np.array(state.reliability.rates()), np.array(state.reliability.shares())
            state.stop = threshold(pace * costs.more(3, batch), rates, shares)
        return state.stop

    def _price(self, state: _State, context: Context, b: int, costs: Costs) -> float:
        """Plain steps that trying once would cost if nothing stood: what the drafter must read, and one short draft."""
        behind = max(0, int(context.length[b]) - state.read)
        return 0.5 + (behind * costs.read + 2 * costs.draft + costs.start) / costs.step(0)

    # -- learning ----------------------------------------------------------------------------------------------------

    def keep(self, step: Step) -> None:
        """Books what each row's draft brought and cost, and learns which tokens stood."""
        self._clock.keep(step)
        context, draft = step.before, step.draft
        costs, batch = self._costs(context)
        reach, drafted = reaches(draft), draft.live.sum(1).tolist() if draft.nodes else [0] * context.size
        bins = [Reliability().bins(level.prob).tolist() for level in self._levels] if draft.chain else []
        for b, state in enumerate(self._memory.rows(context)):
            emitted = int(step.emitted[b])
            state.steps += 1
            state.balance = min(state.balance + RATE * emitted, MOST + SHARE * max(0.0, state.saved))
            if reach[b]:
                state.tree = not draft.chain
                state.asks = bool(self._levels) or (draft.forwards > 0 and reach[b] == 1)  # nobody is asked about a draft of one token
                self._book(state, context, b, emitted, costs, batch, reach[b], drafted[b])
                self._learn(state, step, b, reach[b], bins)
            else:
                state.tokens += emitted
                state.seconds += costs.step(0, batch)
            if step.finish[b] is not None and context.requests[b].temperature == 0:
                self.experience.balance = min(state.balance, START) if state.saved <= 0 else max(START, min(state.balance, MOST))
                self.experience.learned = state.reliability
        self._levels = []

    def _book(self, state: _State, context: Context, b: int, emitted: int, costs: Costs, batch: int, levels: int, nodes: int) -> None:
        plain = costs.step(0, batch)
        spent = costs.step(levels, batch, nodes)
        length = int(context.length[b])
        gain = emitted - (spent + max(0, length - state.read - 1) * costs.read) / plain
        state.read = length + levels
        state.saved += gain
        state.balance += gain
        state.tokens += emitted
        state.seconds += spent
        if state.on and state.balance <= 0:
            state.on = False
            rate = state.tokens / state.seconds * plain
            done = length + emitted - len(context.requests[b].prompt)
            state.notes.append(f"speculation off after {done} tokens: it had lost {-state.saved:.1f} plain steps (pace {rate:.2f} of plain decoding)")

    def _learn(self, state: _State, step: Step, b: int, reach: int, bins: list[list[int]]) -> None:
        stood = len(step.path[b])
        for place in range(min(stood + 1, reach, CURVE)):
            state.judged[place] = 0.95 * state.judged[place] + 1
            state.stood[place] = 0.95 * state.stood[place] + (place < stood)
        if bins:
            state.reliability.learn([bins[i][b] for i in watched(self._levels, step, b)], stood)

    def _costs(self, context: Context) -> tuple[Costs, int]:
        """The costs to decide by, and the batch they are for: what is sampled sees neither the clock nor its neighbours."""
        if any(request.temperature > 0 for request in context.requests):
            return self.frozen, 1
        if self.measured is not None:
            return self.measured, context.size
        return self._clock.costs(context.size) or self.frozen, 1  # what the clock saw is the whole batch's time

    # -- telling -----------------------------------------------------------------------------------------------------

    def report(self, request: Request) -> list[str]:
        """When speculation was off for a request, and why; for the metrics."""
        state = self._memory.find(request)
        return [] if state is None else list(state.notes)

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request, in plain types; None if nothing was."""
        state = self._memory.find(request)
        if state is None:
            return None
        names = ("stood", "judged", "balance", "saved", "tokens", "seconds", "on", "asks", "tree", "notes")
        return {"reliability": state.reliability.export(), **{name: getattr(state, name) for name in names}}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere; the drafter there has read nothing yet."""
        plain = {name: value for name, value in held.items() if name != "reliability"}
        self._memory.adopt(request, _State(Reliability.adopted(held["reliability"]), **plain))


def _ceiling(costs: Costs, most: int) -> float:
    """The best speed-up there could be: every draft token stands."""
    return max((k + 1) / costs.step(k) for k in range(1, most + 1)) * costs.step(0)


class _Clock:
    """Seconds of one call's steps, for greedy requests without given costs: plain steps at first and now and then, their tokens kept."""

    FIRST, EVERY, KEPT = 3, 64, 16

    def __init__(self) -> None:
        self.plain: deque[float] = deque(maxlen=self.KEPT)
        self.draft: deque[float] = deque(maxlen=self.KEPT)
        self.verify: deque[tuple[int, float]] = deque(maxlen=self.KEPT)
        self.since = 0  # steps since the last plain one
        self.size = 0

    def wants_plain(self, context: Context) -> bool:
        """Whether the next step should be a probe of plain decoding."""
        return all(r.temperature == 0 for r in context.requests) and (len(self.plain) < self.FIRST or self.since >= self.EVERY)

    def keep(self, step: Step) -> None:
        """Takes in one step's times."""
        if step.before.size != self.size:  # another batch, other times
            self.plain.clear()
            self.draft.clear()
            self.verify.clear()
            self.size = step.before.size
        self.since = self.since + 1 if step.draft.nodes else 0
        if not step.draft.nodes:
            self.plain.append(step.seconds.verify)
            return
        self.draft.append(step.seconds.draft / max(1, step.draft.levels))
        self.verify.append((1 + step.draft.nodes, step.seconds.verify))

    def costs(self, size: int) -> Costs | None:
        """Medians; None before there is enough to go by."""
        if size != self.size or len(self.plain) < self.FIRST or len(self.verify) < 3:
            return None
        plain, width = median(self.plain), median(n for n, _ in self.verify)
        wide = max(plain, median(s for _, s in self.verify))
        return Costs(draft=median(self.draft), verify=((1, plain), (max(2, int(width)), wide)))


__all__ = ["Auto", "Experience"]
