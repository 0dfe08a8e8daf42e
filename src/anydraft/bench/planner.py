"""The planner against the clock: predicted speed-ups of many (drafter, method, k, temperature) cells beside measured ones.

    python -m anydraft.bench.planner [--prompts 6] [--max-new-tokens 64] [--repeats 2] [--json FILE]

Predictions come from what `anydraft plan` measures, on every second bundled prompt: acceptance under one long lookahead, and costs of whole steps.
Measured is decoding of the other prompts, prefill left out: each cell against plain decoding of the same prompts at the same temperature, all
cells taking turns prompt by prompt, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from anydraft import zoo
from anydraft.bench.suites import bundled
from anydraft.loading import load
from anydraft.planning.plan import examine
from anydraft.planning.predict import Prediction
from anydraft.speculator import Speculator

LOOKAHEADS = (1, 2, 4, 8)
CANDIDATES = (("draft-bpe", "draft_model"), ("draft-spm", "slem"), ("draft-spm", "tli"), (None, "prompt_lookup"))
TASKS = ("code completion", "editing")
GOOD, NEAR = 0.10, 0.05
"""Aims: median error of a cell, and how far behind the best cell the chosen one may be."""


Key = tuple[str, str, int]  # drafter, method, lookahead


class Cell(NamedTuple):
    """One row of the table; speed-ups over plain decoding, `low` and `high` of the prediction."""

    drafter: str
    method: str
    k: int
    temperature: float
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return abs(self.predicted / self.measured - 1)


def decode_seconds(speculator: Speculator, prompt: str, tokens: int, temperature: float, seed: int) -> float:
    """Seconds of one generation without its prefill."""
    made = speculator.generate(prompt, max_new_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=True)
    return made.metrics.timing.total_s - made.metrics.timing.prefill_s


def measured(cells: dict[Any, Speculator], prompts: Sequence[str], tokens: int, temperature: float, repeats: int) -> dict[Any, float]:
    """Seconds of each cell over all prompts, of each prompt the fastest of the repetitions: other programs only ever add time."""
    spent = dict.fromkeys(cells, 0.0)
    for number, prompt in enumerate(prompts):
        runs: dict[Any, list[float]] = {name: [] for name in cells}
        for turn in range(repeats):
            order = list(cells)
            random.Random(100 * number + turn).shuffle(order)
            for name in order:
                runs[name].append(decode_seconds(cells[name], prompt, tokens, temperature, number))
        for name, seconds in runs.items():
            spent[name] += min(seconds)
    return spent


def compare(temperature: float, prompts: int, tokens: int, repeats: int, candidates: Sequence[tuple[str | None, str]] = CANDIDATES) -> list[Cell]:
    """All cells of one temperature."""
    target, tokenizer = load(str(zoo.path("target")))
    seen, fresh = split(prompts)
    loaded = {name: load(str(zoo.path(name))) for name in dict.fromkeys(name for name, _ in candidates if name)}
    forecast: dict[Key, Prediction] = {}
    cells: dict[Key | None, Speculator] = {None: Speculator(target, tokenizer, method="none")}
    for name, method in candidates:
        drafter, its = loaded[name] if name else (None, None)
        long = Speculator(target, tokenizer, drafter, its, method=method, num_assistant_tokens=16)
        for made in examine(name or method, long, seen, batch=1, temperature=temperature, tokens=tokens)[1]:
            if made.lookahead in LOOKAHEADS:
                key = (name or "none", method, made.lookahead)
                forecast[key] = made
                cells[key] = Speculator(target, tokenizer, drafter, its, method=method, num_assistant_tokens=made.lookahead)
    for speculator in cells.values():  # lazy imports, recordings of forwards and allocators are no cell's fault
        speculator.generate(seen[0], max_new_tokens=24, temperature=temperature, seed=0)
    spent = measured(cells, fresh, tokens, temperature, repeats)
    return [Cell(*key, temperature, p.speedup, p.low, p.high, spent[None] / spent[key]) for key, p in forecast.items()]


def split(prompts: int) -> tuple[list[str], list[str]]:
    """Prompts to predict from and as many others to measure on, both with the same share of each task."""
    seen, fresh = [], []
    for task in TASKS:
        own = [item.prompt for item in bundled() if item.task == task]
        random.Random(3).shuffle(own)
        seen += own[: 2 * prompts : 2]
        fresh += own[1 : 2 * prompts : 2]
    order = [i * prompts + n for n in range(prompts) for i in range(len(TASKS))][:prompts]
    return [seen[i] for i in order], [fresh[i] for i in order]


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """The median error, and for each temperature the cell that the planner would choose against the best one measured."""
    chosen = {}
    for temperature in dict.fromkeys(cell.temperature for cell in cells):
        here = [cell for cell in cells if cell.temperature == temperature]
        pick, best = max(here, key=lambda c: c.predicted), max(here, key=lambda c: c.measured)
        # plain decoding is a cell too: it is the choice where nothing is predicted to be faster, and may be the best there is
        got, top = (pick.measured if pick.predicted > 1 else 1.0), max(1.0, best.measured)
        chosen[f"{temperature:g}"] = {"chosen": pick[:3] if pick.predicted > 1 else ("none",), "best": best[:3] if best.measured > 1 else ("none",),
                                      "of_best": got / top}  # fmt: skip
    return {"cells": len(cells), "median_error": median(cell.error for cell in cells), "choices": chosen}


def page(cells: Sequence[Cell], found: dict[str, Any]) -> str:
    """A Markdown table and the sentences below it."""
    lines = ["| drafter | method | k | temperature | predicted | interval | measured | error |", "|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {c.drafter} | {c.method} | {c.k} | {c.temperature:g} | {c.predicted:.2f} | {c.low:.2f} to {c.high:.2f} | {c.measured:.2f} | {c.error:.1%} |"
        for c in cells
    ]
    lines += ["", f"Median error of {found['cells']} cells: {found['median_error']:.1%} (aim: {GOOD:.0%})."]
    for temperature, held in found["choices"].items():
        names = {role: " ".join(map(str, held[role])) for role in ("chosen", "best")}
        lines.append(
            f"Temperature {temperature}: chosen {names['chosen']}, best measured {names['best']}; "
            f"the choice is {1 - held['of_best']:.1%} behind the best (aim: {NEAR:.0%})."
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; exit code 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6, help="to predict from, and as many others to measure on")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--temperature", type=float, action="append", help="default: 0 and 1")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    cells: list[Cell] = []
    for temperature in given.temperature or (0.0, 1.0):
        cells += compare(temperature, given.prompts, given.max_new_tokens, given.repeats)
    found = summary(cells)
    print(f"{torch.get_num_threads()} threads, {given.prompts} prompts x {given.max_new_tokens} tokens, {given.repeats} repetitions\n")
    print(page(cells, found))
    if given.json:
        given.json.write_text(json.dumps({"table": [c._asdict() for c in cells], **found}, indent=2) + "\n", encoding="utf-8")
    return 0 if found["median_error"] <= GOOD and all(held["of_best"] >= 1 - NEAR for held in found["choices"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
