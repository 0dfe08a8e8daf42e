"""Parallel schedules by the wall clock: waiting models against the simulator's word, and real pairs (parallel_pair.py).

    python -m anydraft.bench.parallel waiting --executor threads|processes|ray [--tokens 60] [--repeats 3] [--json FILE]
    python -m anydraft.bench.parallel pair --executor threads|processes|ray [--max-new-tokens 64] [--repeats 5] [--json FILE]
                                       [--device cuda] [--dtype bfloat16] [--model NAME] [--assistant-model NAME] [--forced-acceptance A]

`waiting`: target 40 ms, drafter 4 to 20 ms, acceptance 0.5 to 0.95, 1 to 7 replicas. Forwards wait instead of computing, never less than
their latency. The prediction is made before anything runs, by the simulator, from the latencies and the accept/reject trace of that very text. SI is the
sequential schedule with the same lookahead, DSI and SI take turns, and every text must be the target's own. The overhead is what DSI took
beyond its prediction, per token, in percent of the target's latency. A run takes three to four minutes.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from anydraft.bench.hardware import facts
from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Draft, Request, Size
from anydraft.core.stopping import Stopping
from anydraft.drafters.draft_model import DraftModel
from anydraft.parallel.drive import Parallel
from anydraft.parallel.latency import Scripted, Slowed
from anydraft.planning.simulate import lookahead_for, simulate
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.schedules.dsi import DSI
from anydraft.schedules.sequential import sequential

TARGET_S = 0.040
PROMPT: tuple[int, ...] = (3, 1, 4)
GOAL = {"threads": 0.02, "processes": 0.05, "ray": 0.05}  # of the target's latency, per token
WITHIN = 0.05  # of the predicted ratio
LATE = 1e-4  # a wait never ends early, so where a draft and a verification would end together the draft is told to be the later one


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting; k is the smallest block that the replicas keep up with."""

    draft_s: float
    acceptance: float
    replicas: int

    @property
    def lookahead(self) -> int:
        """k."""
        return lookahead_for(TARGET_S, self.draft_s, self.replicas)


GRID = tuple(
    Cell(draft, acceptance, replicas)
    for draft, replicas in ((0.004, 7), (0.004, 5), (0.004, 3), (0.004, 1), (0.010, 4), (0.010, 2), (0.020, 2), (0.020, 1))
    for acceptance in (0.5, 0.8, 0.95)
)


def waiting_target() -> Slowed:
    """A target that waits."""
    return Slowed(Scripted(), TARGET_S)


class Drafters:
    """The waiting drafters of all cells as one part, so that workers are made once: a request's seed is the number of its cell."""

    chain, kinds = True, ("independent",)

    def __init__(self, cells: Sequence[Cell]):
        self._made = [DraftModel(Slowed(Scripted(c.acceptance), c.draft_s), Scripted().vocab_size) for c in cells]
        self._one = self._made[0]

    @property
    def model(self) -> Any:
        """The open request's drafting model."""
        return self._one.model

    def open(self, context: Context) -> None:
        """A request begins."""
        self._one = self._made[context.requests[0].seed]

    def propose(self, context: Context, size: Size, noise: Any) -> Draft:
        """See `Drafter.propose`."""
        return self._one.propose(context, size, noise)


@dataclass(frozen=True, slots=True)
class MakeDrafters:
    """Their picklable builder."""

    cells: tuple[Cell, ...]

    def __call__(self) -> Drafters:
        return Drafters(self.cells)


def text(tokens: int) -> list[int]:
    """The prompt and what the target says behind it."""
    ids, script = list(PROMPT), Scripted()
    while len(ids) < len(PROMPT) + tokens:
        ids.append(script.token(len(ids), ids[-1]))
    return ids


def trace_of(cell: Cell, tokens: int) -> list[bool]:
    """For each position of the text: whether the cell's draft for it will be accepted."""
    return Scripted(cell.acceptance).trace(text(tokens), len(PROMPT))


def prediction(cell: Cell, tokens: int) -> dict[str, float]:
    """Seconds of SI and DSI on this very trace, by the virtual clock."""
    trace, late = trace_of(cell, tokens), cell.draft_s * (1 + LATE)
    return {name: simulate(name, trace, TARGET_S, late, cell.lookahead, cell.replicas).total for name in ("si", "dsi")}


def decode(schedule: Any, target: Any, drafter: Any, lookahead: int, tokens: int, number: int) -> tuple[list[int], float]:
    """(ids, seconds) of one greedy request."""
    request = Request(prompt=torch.tensor(PROMPT), max_new_tokens=tokens, seed=number)
    stopping = {0: Stopping(request)}
    start = Context.start((request,))

    def refill(context: Context | None) -> Context | None:
        return start if context is None else context if context.size else None

    mark = time.perf_counter()
    for _ in schedule(target, drafter, SpeculativeSampling(), Fixed(lookahead), Keyed(), refill, stopping):
        pass
    return stopping[0].ids, time.perf_counter() - mark


def executor_of(kind: str, targets: Sequence[Any], drafter: Any) -> Any:
    """An executor by name."""
    if kind == "threads":
        from anydraft.parallel.threads import Threads

        return Threads(targets, drafter)
    if kind == "processes":
        from anydraft.parallel.processes import Processes

        return Processes(targets, drafter)
    from anydraft.parallel.rays import Rays

    return Rays(targets, drafter, cpus=0.1)


def run_cells(kind: str, cells: Sequence[Cell], tokens: int, repeats: int, say: Any = None) -> list[dict[str, Any]]:
    """One record per cell: predicted and measured seconds of SI and DSI, repetition by repetition."""
    foretold = [prediction(cell, tokens) for cell in cells]
    expected = text(tokens)[len(PROMPT) :]
    executor = executor_of(kind, [waiting_target] * max(c.replicas for c in cells), MakeDrafters(tuple(cells)))
    most, target, drafters = executor.replicas, waiting_target(), Drafters(cells)
    records = []
    try:
        decode(Parallel(DSI, executor, cells[0].lookahead), target, drafters, 1, 20, 0)  # imports and first calls
        gc.collect()
        gc.freeze()  # a full collection walks everything that torch has loaded
        for number, cell in enumerate(cells):
            executor.replicas = min(cell.replicas, most)
            schedule = Parallel(DSI, executor, cell.lookahead)
            spent: dict[str, list[float]] = {"si": [], "dsi": []}
            for turn in range(repeats):
                for name in ("si", "dsi") if turn % 2 else ("dsi", "si"):
                    ids, seconds = decode(sequential if name == "si" else schedule, target, drafters, cell.lookahead, tokens, number)
                    if ids != expected:
                        raise RuntimeError(f"{name} gave another text than the target in cell {cell}")
                    spent[name].append(seconds)
            trace = trace_of(cell, tokens)
            record = asdict(cell) | {"k": cell.lookahead, "tokens": tokens, "accepted": sum(trace) / len(trace), "predicted": foretold[number], "spent": spent}
            records.append(record)
            if say is not None:
                say(row(record))
    finally:
        executor.close()
        gc.unfreeze()
    return records


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """Ratios SI / DSI and overheads per token in target latencies, with medians and extremes."""
    si, dsi = record["spent"]["si"], record["spent"]["dsi"]
    ratios = [a / b for a, b in zip(si, dsi)]
    predicted = record["predicted"]["si"] / record["predicted"]["dsi"]
    over = {name: [(s - record["predicted"][name]) / record["tokens"] / TARGET_S for s in record["spent"][name]] for name in ("si", "dsi")}
    return {
        "predicted": predicted, "ratio": median(ratios), "low": min(ratios), "high": max(ratios), "off": median(ratios) / predicted - 1,
        "overhead": median(over["dsi"]), "overhead_high": max(over["dsi"]), "overhead_si": median(over["si"]),
    }  # fmt: skip


HEAD = (
    "| drafter | acceptance | SP | k | SI/DSI predicted | measured [least, most] | off by | overhead per token [most] | of SI |\n"
    "|---:|---:|---:|---:|---:|---|---:|---|---:|"
)


def row(record: dict[str, Any]) -> str:
    """One line of the Markdown table."""
    f = figures(record)
    measured = f"{f['ratio']:.3f} [{f['low']:.3f}, {f['high']:.3f}]"
    return (
        f"| {1e3 * record['draft_s']:.0f} ms | {record['acceptance']:.2f} ({record['accepted']:.2f}) | {record['replicas']} | {record['k']} "
        f"| {f['predicted']:.3f} | {measured} | {f['off']:+.1%} | {f['overhead']:.2%} [{f['overhead_high']:.2%}] | {f['overhead_si']:.2%} |"
    )


def waiting(given: argparse.Namespace) -> int:
    """The grid; exit code 1 if a goal is missed."""
    print(f"{given.executor}: {given.tokens} tokens, {given.repeats} repetitions; target {1e3 * TARGET_S:.0f} ms; {described()}\n\n{HEAD}", flush=True)
    records = run_cells(given.executor, GRID[:: given.every], given.tokens, given.repeats, lambda line: print(line, flush=True))
    made = [figures(r) for r in records]
    far = sum(abs(f["off"]) > WITHIN for f in made)
    costly = sum(f["overhead"] > GOAL[given.executor] for f in made)
    print(f"\n{len(made)} cells: {far} off by more than {WITHIN:.0%} (furthest {max((f['off'] for f in made), key=abs):+.1%}); overhead median "
          f"{median(f['overhead'] for f in made):.2%}, most {max(f['overhead'] for f in made):.2%}, {costly} above {GOAL[given.executor]:.0%}")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps({"hardware": facts(), "executor": given.executor, "cells": records}, indent=2) + "\n", encoding="utf-8")
    return 1 if far or costly else 0


def described() -> str:
    """The machine in a few words."""
    found = facts()
    return f"{found['processor']}, {found['cores']} cores"


def main(arguments: list[str] | None = None) -> int:
    """Runs what is asked for and prints one Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m anydraft.bench.parallel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["waiting", "pair"])
    parser.add_argument("--executor", choices=["threads", "processes", "ray"], default="threads")
    parser.add_argument("--tokens", type=int, default=60, help="of each text, for waiting")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="only every n-th cell")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of each text, for pair")
    parser.add_argument("--prompts", type=int, default=3, help="for pair")
    parser.add_argument("--lookahead", type=int, default=3, help="k, for pair")
    parser.add_argument("--trace", type=Path, help="write which drafts of the pair are accepted, as `anydraft simulate --trace` takes it")
    parser.add_argument("--model", default="target", help="of pair; 'random:llama-8b' for random weights of that shape")
    parser.add_argument("--assistant-model", default="draft-bpe", help="of pair, with the target's vocabulary")
    parser.add_argument("--device", help="of pair: cpu, cuda, ...; both models share it")
    parser.add_argument("--dtype", help="of pair: float32, bfloat16, ...")
    parser.add_argument("--forced-acceptance", type=float, help="of pair: make each draft right with this probability, see steered.py")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if given.what == "waiting" else "default")  # a lost worker spoils the figures
        if given.what == "waiting":
            return waiting(given)
        from anydraft.bench.parallel_pair import pair

        return pair(given)


if __name__ == "__main__":
    sys.exit(main())
