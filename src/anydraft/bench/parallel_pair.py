"""A real pair under parallel schedules: DSI and PEARL against the sequential one, with a core for each model or all on one device.

Every model's forwards compete with the others' for one machine, which is what the measurement shows; the simulator's word beside it is for models
that do not compete, from the latencies of single forwards and the drafts that are accepted in these very texts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from anydraft import zoo
from anydraft.bench import random_weights
from anydraft.bench.hardware import facts
from anydraft.bench.measure import Job
from anydraft.bench.pairs import Pair
from anydraft.bench.steered import Script, SteeredSpeculator, Steering, rewire, steered
from anydraft.bench.tied import tie_audit
from anydraft.drafters.draft_model import DraftModel
from anydraft.parallel.drive import latencies
from anydraft.planning.simulate import recorded_trace, simulate
from anydraft.speculator import Speculator

PARALLEL = ("dsi", "pearl")
ONE, ALL = "sequential", "sequential, all cores"


def pair(given: argparse.Namespace) -> int:
    """Measures and prints a Markdown table. Exit code 1 if a token differs for another reason than a tie of the target's arithmetic."""
    both = Pair.load(given.model, given.assistant_model, dtype=given.dtype, device=given.device)
    device = both.target.device
    prompts = [list(both.tokenizer(p["text"]).input_ids) for p in zoo.prompts()[: given.prompts]]
    options = {"max_new_tokens": given.max_new_tokens, "ignore_eos": True}
    plain = Speculator(both.target, both.tokenizer, method="none")
    steering = None if given.forced_acceptance is None else Steering(given.forced_acceptance, Script())
    if steering is not None:
        steering.script.learn(plain, prompts, **options)
    made = {"plain decoding": plain, **contenders(both, given, steering, device)}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    spent: dict[str, list[float]] = {name: [] for name in made}
    texts: dict[str, list[Any]] = {}
    try:
        for turn in range(given.repeats + 1):  # the first warms up
            order = list(made) if turn % 2 else list(made)[::-1]
            for name in order:
                torch.set_num_threads(len(cores) if name == ALL else 1)
                mark = time.perf_counter()
                texts[name] = [made[name].generate(p, seed=n, **options).token_ids for n, p in enumerate(prompts)]
                if turn:
                    spent[name].append(time.perf_counter() - mark)
                elif name in PARALLEL and device.type == "cpu":
                    _pin(made[name], cores)
    finally:
        reports = {name: made[name].schedule.report() for name in PARALLEL}
        for one in made.values():
            one.close()
    alone, told = foretold(made[ONE], prompts, options, given.lookahead, given.trace)
    differing = differences(plain, prompts, texts, given.max_new_tokens)
    print(f"{given.executor}: {heading(both, given, steering)}\n{told}\n\n" + "\n".join(table(spent, reports, differing, alone)))
    if given.json:
        found = {"hardware": facts(str(device)), "model": both.target_name, "assistant_model": both.drafter_name, "forced": str(steering or ""),
                 "dtype": str(both.target.dtype), "executor": given.executor, "spent": spent, "reports": reports, "alone_s": alone, "foretold": told,
                 "differing": differing}  # fmt: skip
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if any(count != ties for count, ties in differing.values()) else 0


def contenders(both: Pair, given: argparse.Namespace, steering: Steering | None, device: torch.device) -> dict[str, Speculator]:
    """The sequential schedule, on a CPU also with all cores, and the parallel ones; all around the same weights."""
    kind = Speculator if steering is None else partial(SteeredSpeculator, steering)

    def contender(**options: Any) -> Speculator:
        return kind(both.target, both.tokenizer, both.drafter, both.drafter_tokenizer, "draft_model", given.lookahead, **options)

    made = {ONE: contender(control="fixed")}
    if device.type == "cpu":
        made[ALL] = contender(control="fixed")
    made |= {name: contender(schedule=name, executor=given.executor, target_replicas=1) for name in PARALLEL}
    if given.executor != "threads" and all(map(random_weights.is_random, both.where)):
        for name in PARALLEL:
            rewire(made[name], lambda targets, drafter: remade(both, given, steering, device))
    return made


def remade(both: Pair, given: argparse.Namespace, steering: Steering | None, device: torch.device) -> tuple[list[Any], Any]:
    """Builders that make random weights where they are used: gigabytes need not travel, and the drafter's worker needs no target."""
    target, drafter = (partial(random_weights.build_engine, str(name), given.dtype, str(device)) for name in both.where)
    return [target], partial(build_drafting, drafter, both.target.config.vocab_size, steering)


def build_drafting(build: Any, vocab_size: int, steering: Steering | None) -> Any:
    """A worker's `draft_model`."""
    made = DraftModel(build(), vocab_size)
    return made if steering is None else steered(made, steering)


def differences(plain: Speculator, prompts: list[list[int]], texts: dict[str, list[Any]], tokens: int) -> dict[str, tuple[int, int | None]]:
    """By schedule: how many texts are not those of plain decoding, and how many of these first differ at a tie; None: that cannot be told."""
    right, ask, made = texts["plain decoding"], tie_audit(lambda: plain), {}
    for name, said in texts.items():
        count = sum(a != b for a, b in zip(right, said))
        made[name] = (count, ask(Job(name, prompts, tokens), right, said) if count else 0)
    return made


def foretold(made: Any, prompts: Sequence[Sequence[int]], options: dict[str, Any], lookahead: int, path: Path | None) -> tuple[tuple[float, float], str]:
    """(seconds of a target and of a drafter forward alone, what the simulator says of this pair with a device for each model)."""
    drafter, pace, tokens = made.parts(False).drafter, [], options["max_new_tokens"]
    flags: list[bool] = []
    totals = dict.fromkeys(("si", *PARALLEL), 0.0)
    for number, prompt in enumerate(prompts):
        (request,) = made.requests(list(prompt), max_new_tokens=tokens, seed=number)
        pace.append(latencies(made.target, drafter.model, request.prompt, min(20, tokens - 1)))
        trace = recorded_trace(drafter, request, made.generate(list(prompt), seed=number, **options).token_ids)
        flags += trace
        target_s, draft_s = pace[-1]
        for name in totals:
            totals[name] += simulate(name, trace, target_s, draft_s, lookahead, 1).total
    if path is not None:
        path.write_text(json.dumps(flags) + "\n", encoding="utf-8")
    target_s, draft_s = (median(times) for times in zip(*pace))
    accepted, gains = sum(flags) / len(flags), {name: totals["si"] / totals[name] for name in PARALLEL}
    return (target_s, draft_s), (
        f"alone: {1e3 * target_s:.2f} ms per target forward, {1e3 * draft_s:.2f} ms per draft, {accepted:.2f} of the drafts accepted; "
        f"modelled without contention, against SI: DSI {gains['dsi']:.2f}, PEARL {gains['pearl']:.2f}"
    )


def heading(both: Pair, given: argparse.Namespace, steering: Steering | None) -> str:
    """What was measured, in a line."""
    machine = facts(str(both.target.device))
    where = f"{machine['processor']}, {machine['cores']} cores" + ("" if both.target.device.type == "cpu" else f", all on one {machine['device']}")
    kind = str(both.target.dtype).removeprefix("torch.")
    forced = "" if steering is None else f", acceptance {steering}"
    return (
        f"{both.target_name} + {both.drafter_name}, {kind}, greedy{forced}, {given.prompts} prompts x {given.max_new_tokens} tokens, k {given.lookahead}, "
        f"one replica, {given.repeats} repetitions; {where}"
    )


def table(spent: dict[str, list[float]], reports: dict[str, Any], differing: dict[str, tuple[int, int | None]], alone: tuple[float, float]) -> list[str]:
    """Lines of Markdown. ms per verification: the replica's time over its tasks, beside that of a forward alone."""
    bases = [name for name in ("plain decoding", ONE, ALL) if name in spent]
    heads = ["schedule", "tokens identical", *(f"time of {name} / its own" for name in bases), "idle", "ms per verification (alone)", "tokens/s per device"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * (2 + len(bases)) + "|---:" * 3 + "|"]
    for name, seconds in spent.items():
        count, ties = differing[name]
        same = "yes" if not count else f"NO: {count} texts differ, " + ("not examined" if ties is None else f"{ties} first at a tie")
        cells = [name, same, *(_ratio(spent[base], seconds) for base in bases)]
        report = reports.get(name)
        if report:
            each = 1e3 * report["busy_s"].get("0", 0.0) / max(1, report["verifications"])
            cells += [f"{report['idle_share']:.0%}", f"{each:.2f} ({1e3 * alone[0]:.2f})", f"{report['tokens_per_s_per_device']:.1f}"]
        lines.append("| " + " | ".join(cells + ["—"] * (len(heads) - len(cells))) + " |")
    return lines


def _pin(made: Any, cores: list[int]) -> None:
    """A core for each worker process, in turn: the drafter's first."""
    workers = getattr(made.schedule.executor, "processes", {})
    for place, (_, process) in enumerate(sorted(workers.items())):
        if hasattr(os, "sched_setaffinity") and process.pid:
            os.sched_setaffinity(process.pid, {cores[place % len(cores)]})


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, theirs)]
    return f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
