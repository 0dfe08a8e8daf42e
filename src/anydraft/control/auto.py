"""Auto: look ahead as far as it pays by measured time, with the drafter that pays best, and not at all where none pays.

Source:   our own: the value of further drafts as in `survival`, under an account that bounds what speculation may ever lose
State:    per request: acceptance by the drafter's probability and by depth, of each drafter, and the account; nothing on the drafters
Cost:     one bucket look-up per drafted token, some scalars a step; switched off, two comparisons a step and no prefill of a drafter
Differs:  a request at a temperature is decided by frozen costs and its own steps: its tokens depend on neither clock nor neighbours;
          greedy requests, whose tokens cannot change, also use the clock and what earlier requests found out, and a batch of them has one account:
          a level that one row drafts is time that all of them spend
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydraft.core.clock import Clock
from anydraft.core.costs import Costs, Member
from anydraft.core.lookahead import threshold
from anydraft.core.memory import Memory
from anydraft.core.records import Context, Level, Request, Size, Step
from anydraft.core.reliability import Reliability, chained, watched
from anydraft.core.track import FIRST, Known
from anydraft.core.tree import reaches

START, RATE, MOST, SHARE = 2.0, 0.008, 6.0, 0.2
"""The account, in plain steps: its start, its gain per token, its ceiling, and the share of what was saved that may be risked again."""

LAST = 256  # steps after which a drafter that was passed over is tried again, at most; FIRST: at first
TRIED = 6  # drafts that say how much a drafter saves
EMPTY = 4  # drafts in a row that came out empty after which what copies is asked every other step, and later every fourth
CLUES = 3  # what a drafter can tell of its next draft counts up to here
LEAST = 0.5  # plain steps that a trial costs at least
DUST = 0.05  # chance of standing below which a row of a shared batch stops drafting in any case
WORTH = 1.02  # speed-up below which even a perfect drafter is left alone


@dataclass(slots=True)
class Experience:
    """What earlier greedy requests found out about the drafters; the caller keeps it from one call to the next."""

    balance: float | None = None  # the account at the end of the last request, None before the first
    learned: dict[str, Known] = field(default_factory=dict)


@dataclass(slots=True)
class _State:
    known: list[Known]
    balance: float = START  # plain steps that speculation may still lose
    credit: float = 0.0  # of earlier requests
    saved: float = 0.0  # plain steps that speculation has saved, less those that it has lost
    tokens: float = 0.0
    spent: float = 0.0  # plain steps
    steps: int = 0
    on: bool = True
    wished: bool = False  # whether this step was to have a draft
    pick: int = 0  # of this drafter
    clue: int = CLUES  # and what it told of its draft
    notes: list[str] = field(default_factory=list)

    def gain(self, emitted: int, spent: float, reading: float = 0.0) -> None:
        """Books a step: tokens, and what it and the reading before it took, in plain steps."""
        self.saved += emitted - spent - reading
        self.balance += emitted - spent - reading
        self.tokens += emitted
        self.spent += spent


class Auto:
    """Args:
    num_assistant_tokens: nodes of a tree, and what a drafter that copies is first asked for.
    max_assistant_tokens: where a chain ends anyway.
    costs: frozen, for requests at a temperature; None assumes.
    measured: on this machine, for greedy requests, by batch size if there are several.
    clock: corrects estimated costs by what steps take; costs that were measured are believed. None: one is made where it is needed.
    experience: shared between the calls of one pair; greedy requests read and write it.
    members: several drafters to choose from, with costs of their own; None: there is one.
    """

    chooses = True  # it can say which of several drafters a row asks

    def __init__(
        self,
        num_assistant_tokens: int = 10,
        max_assistant_tokens: int = 16,
        costs: Costs | None = None,
        measured: Costs | Mapping[int, Costs] | None = None,
        clock: Clock | None = None,
        experience: Experience | None = None,
        members: Sequence[Member] | None = None,
    ):
        self.nodes, self.most, self.experience = num_assistant_tokens, max_assistant_tokens, experience or Experience()
        self.members = list(members or [Member("", costs or Costs.assumed(), measured)])
        self._measured = [{1: m.measured} if isinstance(m.measured, Costs) else m.measured for m in self.members]
        self._clock = None if all(self._measured) else clock or Clock()
        self._memory: Memory[_State] = Memory(lambda: _State([Known() for _ in self.members]))
        self._levels: list[Level] = []

    def open(self, context: Context) -> None:
        """Decides before a drafter's prefill whether a new request starts with speculation."""
        costs, batch = self._costs(context)
        if self._clock is not None and bool((context.step == 0).all()):
            self._clock.renew()
        for b in range(context.size):
            if int(context.step[b]) == 0:
                self._begin(self._memory.of(context, b), context, b, costs, batch)

    def _begin(self, state: _State, context: Context, b: int, costs: list[Costs], batch: int) -> None:
        if context.requests[b].temperature == 0 and self.experience.balance is not None:
            state.balance = self.experience.balance
            learned = self.experience.learned
            state.known = [learned[m.name].faded() if m.name in learned else Known() for m in self.members]
            state.credit = self._credit(state, int(context.limit[b] - context.length[b]))
            state.balance = max(state.balance, state.credit)
        if max(_ceiling(cost, self.most, batch) for cost in costs) < WORTH:
            state.balance = -math.inf
            state.on = False
            state.notes.append("speculation off: even if every draft token stood, drafting would take longer than it saves")
        elif state.balance < (price := self._least_price(state, context, b, costs, batch)):
            state.on = False
            why = "it must read the prompt first" if self.experience.balance is None else "earlier requests lost time with it"
            told = f"to try the drafter costs {price:.0f} plain steps, too many for a beginning: {why}"
            state.notes.append(f"plain decoding at first, the faster way for a short answer ({told}); a longer one tries it later, control='fixed' at once")

    def _credit(self, state: _State, tokens: int) -> float:
        """Plain steps that may be risked on a request of so many tokens, because a drafter saved more in earlier ones."""
        tried = [track.tokens / track.spent for known in state.known for track in known.tracks.values() if track.drafts >= TRIED]
        return SHARE * tokens * max(0.0, 1 - 1 / max(tried, default=1.0))

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        costs, batch = self._costs(context)
        none = torch.zeros(context.size, dtype=torch.int64)
        states = self._memory.rows(context)
        for state in states:
            state.wished = False
        drafting = any(state.on for state in states)
        if drafting and self._clock is not None and _greedy(context) and self._clock.wants_plain(context.size, all(self._measured)):
            return Size(depth=none, nodes=none)
        for b, state in enumerate(states):
            if not state.on and state.balance >= LEAST and state.balance >= self._least_price(state, context, b, costs, batch):
                state.on = drafting = True
                state.notes.append(f"speculation tried again after {int(context.length[b]) - len(context.requests[b].prompt)} tokens")
        if not drafting:
            return Size(depth=none, nodes=none)
        self._choose(states, context, costs, batch)
        depths = [self._depth(state, costs[state.pick], batch) if state.on else 0 for state in states]
        if not any(depths):
            return Size(depth=none, nodes=none)
        for state, k in zip(states, depths):
            state.wished = k > 0
        depth = torch.tensor(depths)
        nodes = torch.tensor([self.nodes if k and self._tree(state) else k for state, k in zip(states, depths)])
        picks = torch.tensor([state.pick for state in states]) if len(self.members) > 1 else None
        if all(costs[state.pick].draft == 0 for state in states):  # what only copies asks nobody
            return Size(depth=depth, nodes=nodes, drafter=picks)
        return Size(depth=depth, nodes=nodes, go_on=self._asking(states, costs, batch, _shared(context)), drafter=picks)

    # -- who drafts --------------------------------------------------------------------------------------------------

    def _choose(self, states: list[_State], context: Context, costs: list[Costs], batch: int) -> None:
        if len(self.members) == 1:
            return
        looks = [None if m.look is None else m.look(context).clamp_max(CLUES).tolist() for m in self.members]
        for b, state in enumerate(states):
            if state.on:
                clues = [CLUES if seen is None else seen[b] for seen in looks]
                state.pick = self._pick(state, clues, context, b, costs, batch)
                state.clue = clues[state.pick]

    def _pick(self, state: _State, clues: list[int], context: Context, b: int, costs: list[Costs], batch: int) -> int:
        """The drafter with the most expected tokens per plain step, or one that was passed over for long enough."""
        price = [self._price(state, m, context, b, cost, batch) for m, cost in enumerate(costs)]
        able = [
            m for m, cost in enumerate(costs)
            if clues[m] == 0 or (_ceiling(cost, self.most, batch) >= WORTH and (state.known[m].read or price[m] <= state.balance))
        ]  # fmt: skip
        worth = {m: self._worth(state.known[m], clues[m], int(context.length[b]), costs[m], batch) for m in able}
        if not able:
            return price.index(min(price))
        best = max(able, key=worth.__getitem__)
        late = [m for m in able if m != best and clues[m] and state.known[m].idle + 1 >= state.known[m].wait]
        for m in able:
            state.known[m].idle += clues[m] > 0
        if late:
            best = late[0]
            state.known[best].wait = min(LAST, 2 * state.known[best].wait)
        elif clues[best]:
            state.known[best].wait = FIRST
        state.known[best].idle = 0
        return best

    def _worth(self, known: Known, clue: int, length: int, costs: Costs, batch: int) -> float:
        """Expected tokens over expected plain steps of a draft; 1 for one that is known to be empty."""
        if clue == 0:
            return 1.0
        behind = max(0, length - known.read - 1) if known.read else 0  # a first reading is an investment, and has a price of its own
        return known.track(clue).worth(costs, behind, self.most, batch)

    # -- how far -----------------------------------------------------------------------------------------------------

    def _depth(self, state: _State, costs: Costs, batch: int) -> int:
        """A drafter that asks is stopped on the way; one that copies is told before, by how deep its tokens have stood."""
        known = state.known[state.pick]
        if state.clue == 0 or (known.empty >= EMPTY and costs.draft == 0 and state.steps % (2 if known.empty < 4 * EMPTY else 4)):
            return 0
        if known.asks or self._tree(state):
            return self.most
        return max(1, costs.best(known.track(state.clue).curve(max(self.nodes, self.most)), batch)[0])

    def _tree(self, state: _State) -> bool:
        """Whether the row's drafter drafts trees, as far as this row has seen."""
        return self.members[state.pick].tree or state.known[state.pick].tree

    def _asking(self, states: list[_State], costs: list[Costs], batch: int, shared: bool):
        stops = torch.tensor([self._stop(state, costs[state.pick], batch) for state in states])
        rates = torch.tensor([state.known[state.pick].reliability.rates() for state in states])
        levels = self._levels = []
        chance = torch.ones(len(states))

        def go_on(context: Context, level: Level) -> Tensor:
            nonlocal chance
            levels.append(level)
            bins = states[0].known[0].reliability.bins(level.prob)
            lower = chance * rates.gather(1, bins[:, None]).squeeze(1)
            live = level.live.cpu()
            chance = torch.where(live, lower, chance)  # other rows may ask another drafter
            if shared:  # one more level is everybody's time: it must be worth it to all rows together
                return (chance >= DUST).logical_and((chance * live).mean() >= (stops * live).sum() / live.sum().clamp_min(1))
            return chance >= stops

        return go_on

    def _stop(self, state: _State, costs: Costs, batch: int) -> float:
        known = state.known[state.pick]
        if known.stop is None or known.steps >= known.stopped + 4:
            known.stopped = known.steps
            pace = (8 + state.tokens) / (8 + state.spent)
            rates, shares = np.array(known.reliability.rates()), np.array(known.reliability.shares())
            known.stop = threshold(pace * costs.more(3, batch) / costs.step(0, batch), rates, shares)
        return known.stop

    def _price(self, state: _State, m: int, context: Context, b: int, costs: Costs, batch: int) -> float:
        """Plain steps that trying once would cost if nothing stood: what the drafter must read, and one short draft."""
        behind = max(0, int(context.length[b]) - state.known[m].read)
        return LEAST + (behind * costs.read + 2 * costs.draft + costs.start) / costs.step(0, batch)

    def _least_price(self, state: _State, context: Context, b: int, costs: list[Costs], batch: int) -> float:
        worth = [m for m, cost in enumerate(costs) if _ceiling(cost, self.most, batch) >= WORTH] or range(len(costs))
        return min(self._price(state, m, context, b, costs[m], batch) for m in worth)

    # -- learning ----------------------------------------------------------------------------------------------------

    def keep(self, step: Step) -> None:
        """Books what each row's draft brought and cost, and learns which tokens stood."""
        context, draft = step.before, step.draft
        states = self._memory.rows(context)
        costs, batch = self._costs(context)
        if self._clock is not None:
            self._clock.keep(step, [self.members[state.pick].name for state in states])
        reach, drafted = reaches(draft), draft.live.sum(1).tolist() if draft.nodes else [0] * context.size
        bins = [Reliability().bins(level.prob).tolist() for level in self._levels]
        asked = [sum(bool(level.live[b]) for level in self._levels) for b in range(context.size)]
        levels = [max(pair) for pair in zip(reach, asked)]
        spent = self._spent(step, states, levels, drafted, costs, batch)
        for b, state in enumerate(states):
            emitted = int(step.emitted[b])
            state.steps += 1
            state.balance = min(state.balance + RATE * emitted, max(MOST, state.credit) + SHARE * max(0.0, state.saved))
            if levels[b]:
                known = state.known[state.pick]
                known.asks = bool(asked[b]) or (known.asks and reach[b] == 1)  # nobody is asked about a draft of one token
                behind = max(0, int(context.length[b]) - known.read - 1)
                self._book(state, emitted, spent[b], behind * costs[state.pick].read / costs[state.pick].step(0, batch))
                known.read = int(context.length[b]) + levels[b]
                known.empty, known.tree = 0, known.tree or not chained(draft, b)
                known.track(state.clue).learn(len(step.path[b]), reach[b])
                if bins:
                    known.reliability.learn([bins[i][b] for i in watched(self._levels, step, b)], len(step.path[b]))
            else:
                state.gain(emitted, spent[b])
                if state.wished and context.limit[b] - context.length[b] > 1:  # and nothing came, though there was room
                    state.known[state.pick].empty += 1
                    state.known[state.pick].track(state.clue).book(emitted, spent[b])
        self._levels = []
        self._settle(step, states)

    def _spent(self, step: Step, states: list[_State], levels: list[int], drafted: list[int], costs: list[Costs], batch: int) -> list[float]:
        """Plain steps that this step took, for each row: its own draft's, or, where a batch shares its time, what the whole of it took."""
        if not step.draft.nodes and not any(levels):
            return [1.0] * len(states)
        if not _shared(step.before):
            own = [(costs[state.pick], n, k) for state, n, k in zip(states, drafted, levels)]
            return [(c.v(1 + n, batch) + c.start + k * c.draft) / c.step(0, batch) if k else 1.0 for c, n, k in own]
        deepest = {m: max(k for state, k in zip(states, levels) if state.pick == m) for m in {state.pick for state in states}}
        drafting = sum(costs[m].start + k * costs[m].draft for m, k in deepest.items() if k)
        first = costs[states[0].pick]
        return [(first.v(1 + step.draft.nodes, batch) + drafting) / first.step(0, batch)] * len(states)

    def _book(self, state: _State, emitted: int, spent: float, reading: float) -> None:
        known = state.known[state.pick]
        known.steps += 1
        known.tokens += emitted
        known.spent += spent
        known.track(state.clue).book(emitted, spent)
        state.gain(emitted, spent, reading)

    def _settle(self, step: Step, states: list[_State]) -> None:
        """Rows that share their time share their gains; an account that is used up switches speculation off; requests that end leave what they learned."""
        context = step.before
        if _shared(context):
            held = [state for state in states if state.balance > -math.inf]
            for name in ("balance", "saved"):
                mean = sum(getattr(state, name) for state in held) / max(1, len(held))
                for state in held:
                    setattr(state, name, mean)
        for b, state in enumerate(states):
            if state.on and state.balance <= 0:
                state.on = False
                done = int(context.length[b]) + int(step.emitted[b]) - len(context.requests[b].prompt)
                lost = f"it had lost {-state.saved:.1f} plain steps" if state.saved < 0 else "it lost time of late"
                state.notes.append(f"speculation off after {done} tokens: {lost} (pace {state.tokens / state.spent:.2f} of plain decoding)")
            if step.finish[b] is not None and context.requests[b].temperature == 0:
                most, least = (START, 0.0) if state.saved < 0 else (MOST, START)
                self.experience.balance = max(least, min(state.balance, most))
                self.experience.learned |= {m.name: known for m, known in zip(self.members, state.known)}

    def _costs(self, context: Context) -> tuple[list[Costs], int]:
        """The costs to decide by, and the batch they are for: what is sampled sees neither the clock nor its neighbours."""
        if not _greedy(context):
            return [m.costs for m in self.members], 1
        said = [_nearest(found, context.size) if found else m.costs for m, found in zip(self.members, self._measured)]
        if self._clock is not None:
            said = [c if found else self._clock.costs(context.size, m.name, c) for m, c, found in zip(self.members, said, self._measured)]
        return said, context.size

    # -- telling -----------------------------------------------------------------------------------------------------

    def report(self, request: Request) -> list[str]:
        """When speculation was off for a request, and why; for the metrics."""
        state = self._memory.find(request)
        return [] if state is None else list(state.notes)

    def choices(self, request: Request) -> dict[str, dict[str, Any]]:
        """Of several drafters: how many steps each drafted, the tokens that these emitted, and tokens per plain step, by which it was chosen."""
        state = self._memory.find(request)
        if state is None or len(self.members) == 1:
            return {}
        return {
            m.name: {"steps": k.steps, "emitted": int(k.tokens), "tokens_per_plain_step": round(k.tokens / k.spent, 3) if k.spent else None}
            for m, k in zip(self.members, state.known)
        }

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request, in plain types; None if nothing was."""
        state = self._memory.find(request)
        if state is None:
            return None
        names = ("balance", "credit", "saved", "tokens", "spent", "steps", "on", "pick", "notes")
        return {"known": [known.export() for known in state.known], **{name: getattr(state, name) for name in names}}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere; the drafters there have read nothing yet."""
        plain = {name: value for name, value in held.items() if name != "known"}
        self._memory.adopt(request, _State([Known.adopted(known) for known in held["known"]], **plain))


def _greedy(context: Context) -> bool:
    return all(request.temperature == 0 for request in context.requests)


def _shared(context: Context) -> bool:
    """Whether rows may look at each other, and there are others: they share their time."""
    return context.size > 1 and _greedy(context)


def _nearest(measured: Mapping[int, Costs], size: int) -> Costs:
    return measured[min(measured, key=lambda batch: abs(math.log(batch / size)))]


@functools.lru_cache(maxsize=256)
def _ceiling(costs: Costs, most: int, batch: int) -> float:
    """The best speed-up there could be: every draft token stands."""
    return max(((k + 1) / costs.step(k, batch) for k in range(1, most + 1)), default=0.0) * costs.step(0, batch)


__all__ = ["Auto", "Experience"]
