"""How long plain decoding, speculative inference (SI), DSI and PEARL take on the same text, by the clock of a simulation.

DSI and PEARL are the coordinators of schedules/, unchanged, on a virtual clock; plain and SI are counted. All four see one trace: for each position,
whether the draft for it would be accepted. A trace is drawn with a given acceptance, or recorded from a real pair. Every figure is modelled: a
forward takes its given time whatever its width, messages take none, and a cancel frees its worker at once, as in the paper's simulator.

Source: Timor et al. 2025, arXiv:2405.14105, offline simulator; PEARL: Liu et al. 2025, arXiv:2408.11850.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from anydraft.core.errors import BadOption
from anydraft.core.ledger import Ledger, Outcome
from anydraft.core.messages import Node
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Request, Size
from anydraft.core.roles import Drafter
from anydraft.parallel.clock import VirtualClock
from anydraft.schedules.dsi import DSI
from anydraft.schedules.pearl import PEARL

ALGORITHMS = ("plain", "si", "dsi", "pearl")
_ROUNDING = 1e-9  # ratios such as 0.3 / 0.1 must not need one more replica than 3


@dataclass(frozen=True, slots=True)
class Preset:
    """A pair as published. Quoted from memory of the paper's table, not measured here and not re-verified."""

    target_ms: float
    draft_ms: float
    acceptance: float
    quoted_dsi_over_si: float


PRESETS = {
    "starcoder-15b/168m humaneval": Preset(20.6, 6.8, 0.93, 1.92),
    "starcoder-15b/168m mbpp": Preset(21.0, 6.8, 0.90, 1.66),
    "phi3-14b/4b alpaca": Preset(49.6, 33.4, 0.87, 1.60),
    "phi3-14b/4b humaneval": Preset(52.1, 34.0, 0.95, 1.41),
    "phi3-14b/4b cnn-dm": Preset(52.4, 34.6, 0.93, 1.39),
    "phi3-14b/4b mbpp": Preset(52.2, 34.3, 0.94, 1.37),
    "vicuna-13b/68m cnn-dm": Preset(37.7, 2.5, 0.63, 1.47),
    "vicuna-13b/68m alpaca": Preset(33.3, 2.5, 0.58, 1.41),
    "vicuna-7b/68m cnn-dm": Preset(29.4, 2.5, 0.67, 1.29),
    "vicuna-7b/68m alpaca": Preset(26.0, 2.5, 0.59, 1.70),
}


def replicas_needed(target_s: float, draft_s: float, lookahead: int) -> int:
    """SP: replicas with which DSI is never slower than plain decoding or SI. One more than the paper's rule where a block takes
    longer than a verification; and where it takes as long, because the last block of a text is shorter and SI does not wait with it.

    >>> replicas_needed(1.0, 0.1, 2), replicas_needed(1.0, 0.1, 10), replicas_needed(1.0, 0.1, 11)
    (5, 2, 2)
    """
    block = lookahead * draft_s
    longer = block > target_s * (1 + _ROUNDING) or (lookahead > 1 and block > target_s * (1 - _ROUNDING))
    return math.ceil(target_s / block - _ROUNDING) + longer


def lookahead_for(target_s: float, draft_s: float, replicas: int) -> int:
    """k: the smallest block that this many replicas keep up with; the smaller, the earlier a rejection is seen.

    >>> lookahead_for(0.040, 0.004, 7)
    2
    """
    return max(1, math.ceil(target_s / (replicas * draft_s) - _ROUNDING))


def drawn_trace(tokens: int, acceptance: float, seed: int = 0) -> list[bool]:
    """An i.i.d. trace: a model for checks against closed forms, never a claim about a real pair."""
    return (np.random.default_rng(seed).random(tokens) < acceptance).tolist()


def recorded_trace(drafter: Drafter, request: Request, ids: Sequence[int]) -> list[bool]:
    """Of a real pair: whether the drafter, behind the target's own greedy text, proposes each of its tokens.

    Args:
        drafter: drafts chains; nobody else uses it meanwhile.
        request: the prompt, at temperature 0.
        ids: what the target generated behind it.
    """
    start = Context.start((dataclasses.replace(request, max_new_tokens=len(ids) + 1),))
    getattr(drafter, "open", lambda context: None)(start)
    one, flags = torch.ones(1, dtype=torch.int64), []
    for place, token in enumerate(ids):
        context = start.extended([list(ids[:place])])
        draft = drafter.propose(context, Size(depth=one, nodes=one), Keyed().at(context))
        flags.append(bool(draft.nodes) and bool(draft.live[0, 0]) and int(draft.tokens[0, 0]) == token)
    return flags


class _TraceJudge:
    """Decides by a trace; see `Judge`. Notes when each token was decided."""

    def __init__(self, trace: Sequence[bool]):
        self.trace, self.clock, self.times = trace, None, []

    def drafts(self) -> bool:
        return True

    def decide(self, epoch: int, position: int, rows: Sequence[Any], nodes: Sequence[Node | None]) -> Outcome:
        count, turned = 0, False
        for place, node in enumerate(nodes, position):
            count += 1
            turned = node is None or not self.trace[place]
            if turned:
                break
        self.times += [self.clock.now] * count  # type: ignore[attr-defined]
        return Outcome([0] * count, turned, "length" if position + count >= len(self.trace) else None)


class _Positions(Ledger):
    """A ledger whose ids nobody reads."""

    def behind(self, position: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each token was decided, in seconds, and what it took."""

    times: list[float]
    verifications: int
    wasted_verifications: int = 0
    drafted_tokens: int = 0
    wasted_drafts: int = 0
    busy: float = 0.0  # seconds of work of all workers together
    workers: int = 1

    @property
    def total(self) -> float:
        """Seconds until the last token."""
        return self.times[-1]

    def done_by(self, t: float) -> int:
        """Tokens decided by time t."""
        return sum(1 for moment in self.times if moment <= t + _ROUNDING)

    def as_dict(self) -> dict[str, Any]:
        """Totals, ready for JSON."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("times", "busy")}
        n = len(self.times)
        rates = {"idle_share": max(0.0, 1 - self.busy / (self.workers * self.total)), "tokens_per_s_per_device": n / self.total / self.workers}
        return plain | {"tokens": n, "seconds": self.total, "seconds_per_token": self.total / n} | rates


def plain(trace: Sequence[bool], target_s: float) -> Timeline:
    """One forward per token."""
    n = len(trace)
    return Timeline([target_s * (i + 1) for i in range(n)], n, busy=n * target_s)


def si(trace: Sequence[bool], target_s: float, draft_s: float, lookahead: int) -> Timeline:
    """Draft, verify, one after the other; a round's tokens appear at its end. The last block shrinks to what is still wanted."""
    times: list[float] = []
    now, rounds, drafted, wasted = 0.0, 0, 0, 0
    while len(times) < len(trace):
        start = len(times)
        k = min(lookahead, len(trace) - start - 1)
        accepted = 0
        while accepted < k and trace[start + accepted]:
            accepted += 1
        now += k * draft_s + target_s
        rounds, drafted, wasted = rounds + 1, drafted + k, wasted + k - accepted
        times += [now] * (accepted + 1)
    return Timeline(times, rounds, 0, drafted, wasted, now, 2 if lookahead else 1)


def parallel(schedule: type, trace: Sequence[bool], target_s: float, draft_s: float, lookahead: int, replicas: int, *, preempt: bool = True) -> Timeline:
    """A coordinator of schedules/ on the virtual clock."""
    judge = _TraceJudge(trace)
    clock = judge.clock = VirtualClock(target_s, draft_s, preempt=preempt)  # type: ignore[assignment]
    made = schedule(_Positions(judge, 0, len(trace)), replicas, lookahead)
    for order in made.start():
        clock.send(order)
    while not made.done:
        answer = clock.receive()
        if answer is None:
            raise RuntimeError("the schedule waits for nobody: a deadlock")
        for order in made.on(answer):
            clock.send(order)
    tally = made.tally
    return Timeline(
        judge.times, tally.verifications, tally.wasted_verifications, tally.drafted_tokens, tally.wasted_drafts, sum(clock.busy.values()), replicas + 1
    )


def simulate(
    algorithm: str, trace: Sequence[bool], target_s: float, draft_s: float, lookahead: int, replicas: int | None = None, *, preempt: bool = True
) -> Timeline:
    """One algorithm on one trace.

    Args:
        replicas: of the target, for DSI; None: as many as `replicas_needed` says.
    Raises:
        BadOption: times or counts that mean nothing, or a drafter that is slower than its target.
    """
    if algorithm not in ALGORITHMS:
        raise BadOption("there is no such algorithm", got=algorithm, expected=", ".join(ALGORITHMS))
    if not trace:
        raise BadOption("there is no token to simulate", expected="a trace of at least one token")
    if target_s <= 0 or draft_s <= 0:
        raise BadOption("a latency is not usable", got=f"target {target_s:g} s, drafter {draft_s:g} s", expected="numbers > 0")
    if draft_s > target_s * (1 + _ROUNDING):
        raise BadOption("the drafter is slower than the target", got=f"{draft_s:g} s > {target_s:g} s", next_step="Use a smaller drafter, or none")
    if lookahead < 1 or (replicas is not None and replicas < 1):
        raise BadOption("a count is not usable", got=f"k {lookahead}, replicas {replicas}", expected="integers >= 1")
    if algorithm == "plain":
        return plain(trace, target_s)
    if algorithm == "si":
        return si(trace, target_s, draft_s, lookahead)
    if algorithm == "pearl":
        return parallel(PEARL, trace, target_s, draft_s, lookahead, 1, preempt=preempt)
    return parallel(DSI, trace, target_s, draft_s, lookahead, replicas or replicas_needed(target_s, draft_s, lookahead), preempt=preempt)


def closed_form(acceptance: float, draft: float, lookahead: int) -> float:
    """DSI's time per token in target forwards, with the early test, for k t_draft <= t_target and enough replicas.

    >>> round(closed_form(0.6, 0.5, 2), 3)
    0.775
    """
    a = acceptance
    return (1 - a) * (1 + lookahead * draft * a / (1 - a**lookahead))


COLUMNS = ("c", "a", "k", "sp", "plain", "si", "dsi", "pearl")


def cell(c: float, a: float, k: int, tokens: int, seed: int) -> tuple[float, float, int, int, float, float, float, float]:
    """One row of the grid: times per token in target forwards, all four on one trace, with the replicas that the rule asks for."""
    trace = drawn_trace(tokens, a, seed)
    sp = replicas_needed(1.0, c, k)
    spent = [simulate(name, trace, 1.0, c, k, sp).total / tokens for name in ALGORITHMS]
    return (c, a, k, sp, *spent)  # type: ignore[return-value]


def best(rows: Sequence[Sequence[float]]) -> dict[tuple[float, float], dict[str, float]]:
    """By (c, a): each algorithm's time with its own best k."""
    found: dict[tuple[float, float], dict[str, float]] = {}
    for row in rows:
        here = found.setdefault((row[0], row[1]), dict.fromkeys(ALGORITHMS, math.inf))
        for name, value in zip(ALGORITHMS, row[4:]):
            here[name] = min(here[name], value)
    return found


MAPS = {"si_over_plain": 10.0, "dsi_over_si": 2.0, "dsi_over_plain": 3.0, "dsi_over_best": 1.6}
"""Heat maps by file name: how many times faster the first is, with the cap of the colour scale that the paper uses."""


def ratio(name: str, times: dict[str, float]) -> float:
    """How many times faster the first is than the second; for `si_over_plain`, how many times SLOWER SI is, as the paper draws it."""
    if name == "si_over_plain":
        return times["si"] / times["plain"]
    other = min(times["si"], times["plain"]) if name == "dsi_over_best" else times[name.removeprefix("dsi_over_")]
    return other / times["dsi"]
