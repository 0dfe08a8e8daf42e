"""Lookahead controls side by side on the bundled pairs: three suites, two temperatures, and the share of what an oracle would reach.

    python -m anydraft.bench.controls --pair same --json same.json [--prompts 6] [--max-new-tokens 64] [--train FOLDER]
    python -m anydraft.bench.controls --pair other --json other.json

Each control's steps are counted: drafted levels, and target forwards by width. The time is modelled: those counts at costs measured once at the
start, so that programs which share the machine disturb every control alike. Requests run in one batch, because a control decides about each as it
would alone; `auto` runs greedy ones one by one, since it goes on with what earlier ones found out. The oracle drafts exactly what will stand, in
the same model. The best fixed k is found by sweep on the same prompts, which favours it. A run goes on where --json left off.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from anydraft import zoo
from anydraft.bench.suites import BUNDLED_TASKS, bundled
from anydraft.control.auto import Auto, Experience
from anydraft.control.bandit import Bandit
from anydraft.control.confidence import Confidence
from anydraft.control.disco import DISCO
from anydraft.control.fixed import Fixed
from anydraft.control.heuristic import Heuristic
from anydraft.control.specdec_plus_plus import SpecDecPlusPlus
from anydraft.control.survival import Survival
from anydraft.control.svip import SVIP
from anydraft.core.costs import Costs
from anydraft.core.errors import AnydraftError
from anydraft.loading import load
from anydraft.planning.plan import step_costs
from anydraft.speculator import Speculator
from anydraft.training.traces import steps

SWEEP = (1, 2, 3, 4, 6, 8, 12)
LONG = 16
SUITES = BUNDLED_TASKS[:3]
BESIDE = "auto, prompt lookup beside"
"""A row of its own: two drafters, of which each step asks one; its oracle would be another."""


class Count:
    """What one control did on one suite."""

    def __init__(self, prompts: int) -> None:
        self.wall = 0.0
        self.emitted = [0] * prompts
        self.taken: list[list[tuple[int, int]]] = [[] for _ in range(prompts)]  # (levels, nodes) of each step of each prompt

    def speedup(self, costs: Costs, picks: list[int] | None = None) -> float:
        """Plain seconds over ours, modelled from the counts; of these prompts, or of all."""
        chosen = range(len(self.emitted)) if picks is None else picks
        ours = sum(seconds(costs, *step) for n in chosen for step in self.taken[n])
        return sum(self.emitted[n] for n in chosen) * costs.step(0) / ours

    @property
    def levels(self) -> int:
        """Drafted by a model, over all prompts."""
        return sum(levels for taken in self.taken for levels, _ in taken)


def seconds(costs: Costs, levels: int, nodes: int) -> float:
    """Of one step that drafted `levels` levels with a model, and had `nodes` nodes verified."""
    return costs.v(1 + nodes) + (costs.start + levels * costs.draft if levels else 0.0)


def count(speculator: Speculator, control: Callable[[], Any], prompts: Sequence[str], tokens: int, temperature: float, alone: bool = False) -> Count:
    """Runs the prompts in one batch, or one after the other, each then with a control of its own."""
    made = Count(len(prompts))
    start = time.perf_counter()
    for group in [[n] for n in range(len(prompts))] if alone else [list(range(len(prompts)))]:
        asked = {"max_new_tokens": tokens, "temperature": temperature, "ignore_eos": True}
        requests = [r for n in group for r in speculator.requests(prompts[n], seed=n, **asked)]
        for step in steps(speculator, requests, control()):
            draft = step.draft
            drafted = draft.live.sum(1).tolist() if draft.nodes else [0] * step.before.size
            source = draft.source.tolist() if draft.source is not None else None
            for b, (slot, nodes) in enumerate(zip(step.before.slot.tolist(), drafted)):
                copied = bool(nodes) and draft.proposer[source[b][0] if source else 0] == "prompt_lookup"
                made.emitted[group[slot]] += int(step.emitted[b])
                made.taken[group[slot]].append((0 if copied else nodes, nodes))
    made.wall = time.perf_counter() - start
    return made


class Noting(Fixed):
    """A long constant lookahead that notes how many tokens stood in each step."""

    def __init__(self, k: int):
        super().__init__(k)
        self.stood: dict[int, list[int]] = {}

    def keep(self, step: Any) -> None:
        for slot, path in zip(step.before.slot.tolist(), step.path):
            self.stood.setdefault(slot, []).append(len(path))


def oracle(speculator: Speculator, prompts: Sequence[str], tokens: int, temperature: float) -> Count:
    """The steps of a long lookahead with exactly the tokens drafted that stood: what perfect foresight of a long draft brings."""
    noting = Noting(LONG)
    made = count(speculator, lambda: noting, prompts, tokens, temperature)
    made.taken = [[(s, s) for s in noting.stood[n]] for n in range(len(prompts))]
    return made


def trained_file(weights: Path, name: str, pair: str, temperature: float) -> Path:
    """Where a trained control for this pair and temperature is kept."""
    return weights / f"{name}-{pair}{'' if temperature == 0 else f'-{temperature:g}'}.safetensors"


def contenders(costs: Costs, temperature: float, pair: str | None, weights: Path) -> dict[str, Callable[[], Any]]:
    """Controls by name; trained ones where there is a file for this pair and temperature."""
    experience = Experience()
    made: dict[str, Callable[[], Any]] = {
        "heuristic": lambda: Heuristic(5),
        "confidence 0.4": lambda: Confidence(20, 0.4),
        "confidence, re-fit": lambda: Confidence(20, 0.4, refit=True),
        "svip": lambda: SVIP(16, 1.0),
        "survival": lambda: Survival(16, costs),
        "survival, one step": lambda: Survival(16, costs, full=False),
        "bandit ucb": lambda: Bandit(costs=costs),
        "bandit exp3": lambda: Bandit(algorithm="exp3", costs=costs),
        "auto": lambda: Auto(5, 16, costs, costs, experience=experience),
    }
    for name, cls in (("disco", DISCO), ("specdec_plus_plus", SpecDecPlusPlus)):
        if pair is not None and (file := trained_file(weights, name, pair, temperature)).is_file():
            made[name] = lambda cls=cls, file=file: cls(file, pair=pair)
    return made


def interval(made: Count, against: Count, costs: Costs, draws: int = 500) -> tuple[float, float]:
    """95 % bootstrap interval, over prompts, of one control's speed over another's."""
    rng, n = random.Random(0), len(made.emitted)
    picks = [[rng.randrange(n) for _ in range(n)] for _ in range(draws)]
    ratios = sorted(made.speedup(costs, p) / against.speedup(costs, p) for p in picks)
    return ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]


def table(
    speculator: Speculator, together: Speculator, prompts: Sequence[str], tokens: int, temperature: float, costs: Costs, weights: Path
) -> dict[str, Any]:
    """Every control on one suite."""
    fixed = {k: count(speculator, lambda k=k: Fixed(k), prompts, tokens, temperature) for k in SWEEP}
    best = max(fixed, key=lambda k: fixed[k].speedup(costs))
    ideal = oracle(speculator, prompts, tokens, temperature)
    report = {"oracle": ideal, f"fixed {best} (best of the sweep)": fixed[best]}
    for name, control in contenders(costs, temperature, speculator.pace.pair, weights).items():
        try:
            report[name] = count(speculator, control, prompts, tokens, temperature, alone=name == "auto" and temperature == 0)
        except AnydraftError as error:
            print(f"  {name}: left out: {error}")
    report[BESIDE] = count(together, lambda: None, prompts, tokens, temperature, alone=temperature == 0)
    rows, top = {}, ideal.speedup(costs)
    for name, made in report.items():
        low, high = interval(made, fixed[best], costs)
        speed = made.speedup(costs)
        rows[name] = {
            "speedup": speed, "over_fixed": speed / fixed[best].speedup(costs), "low": low, "high": high, "of_oracle": speed / top,
            "levels_per_token": made.levels / sum(made.emitted), "wall_s": made.wall,
        }  # fmt: skip
    return rows


def typical(speculator: Speculator, prompt: str) -> Costs:
    """Of three measurements of whole steps, the one with the median cost of a draft level in plain steps."""
    found = [step_costs(speculator, [prompt], batch=1, temperature=0.0) for _ in range(3)]
    return sorted(found, key=lambda c: c.draft / c.v(1))[1]


def pair_of(name: str) -> tuple[Speculator, Callable[[Costs], Speculator]]:
    """(the pair with one drafter, what makes it with prompt lookup beside that drafter)."""
    target, tokenizer = load(str(zoo.path("target")))
    drafter, its = load(str(zoo.path("draft-bpe" if name == "same" else "draft-spm")))
    one = Speculator(target, tokenizer, drafter, its, method="draft_model" if name == "same" else "tli", num_assistant_tokens=LONG)
    if name == "same":
        one._assistant.offers_hidden = True

    def together(costs: Costs) -> Speculator:
        made = Speculator(target, tokenizer, [drafter, "prompt_lookup"], [its, None])
        for assistant in made.assistants:
            assistant.pace.known = costs if assistant.is_model else Costs(0.0, costs.verify)
        return made

    return one, together


def train_missing(speculator: Speculator, weights: Path, temperature: float, prompts: Sequence[str], tokens: int) -> None:
    """Trains DISCO and SpecDec++ for this pair and temperature where there is no file yet."""
    for name in ("disco", "specdec_plus_plus"):
        file = trained_file(weights, name, speculator.pace.pair, temperature)
        if not file.is_file():
            try:
                recipe = importlib.import_module(f"anydraft.training.{name}")
                recipe.train(speculator, prompts, file, temperature=temperature, tokens=tokens, say=lambda _: None)
                print(f"trained {name} at temperature {temperature:g} on {len(prompts)} prompts", flush=True)
            except AnydraftError as error:
                print(f"{name} cannot be trained here: {error}", flush=True)


def page(name: str, rows: dict[str, Any]) -> str:
    """One suite as a Markdown table, best control first."""
    lines = [f"\n{name} (modelled from counts)\n", "| control | speed-up | over the best fixed k | of the oracle | levels a token |", "|---|---|---|---|---|"]
    for control, row in sorted(rows.items(), key=lambda item: -item[1]["speedup"]):
        over = f"{row['over_fixed']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"| {control} | {row['speedup']:.3f} | {over} | {row['of_oracle']:.0%} | {row['levels_per_token']:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Prints one table per suite and temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--pair", choices=("same", "other"), default="same")
    parser.add_argument("--temperature", type=float, action="append", help="default: 0 and 1")
    parser.add_argument("--suite", action="append")
    parser.add_argument("--costs", type=Path, help="JSON with draft_s and verify_s, or what --json wrote: other times than those of this moment")
    parser.add_argument("--train", type=Path, help="train DISCO and SpecDec++ where they are missing, and keep their files in this folder")
    parser.add_argument("--json", type=Path, help="written after each table; tables that it holds already are not made again")
    given = parser.parse_args(arguments)
    speculator, beside = pair_of(given.pair)
    held = {p["id"] for n, p in enumerate(zoo.prompts()) if n % 2}  # the trained controls have seen the others
    suites = {s: [i.prompt for i in bundled() if i.task == s and i.id.removesuffix("-doc").removesuffix("-edit") in held] for s in SUITES}
    asked = {"pair": given.pair, "prompts": given.prompts, "max_new_tokens": given.max_new_tokens}
    report: dict[str, Any] = json.loads(given.json.read_text(encoding="utf-8")) if given.json and given.json.is_file() else {}
    if report and report["asked"] != asked:
        parser.error(f"{given.json} holds tables of other settings: {report['asked']}")
    if not report:
        read = json.loads(given.costs.read_text(encoding="utf-8")) if given.costs else {}
        costs = Costs.from_dict(read.get("costs", read)) if read else typical(speculator, zoo.demo_prompt()["text"])
        report = {"asked": asked, "costs": costs.as_dict(), "threads": torch.get_num_threads(), "tables": {}}
    costs, weights = Costs.from_dict(report["costs"]), given.train or zoo.FOLDER / "controls"
    together = beside(costs)
    verify = ", ".join(f"v({n}) {1e3 * s:.2f}" for n, s in costs.verify)
    known = "given" if given.costs else "measured"
    print(f"{given.pair} vocabulary, {known}, ms: draft level {1e3 * costs.draft:.2f}, start {1e3 * costs.start:.2f}, {verify}")
    for temperature in given.temperature or (0.0, 1.0):
        if given.train:
            unheld = [p["text"] for n, p in enumerate(zoo.prompts()) if not n % 2][::4][:20]
            train_missing(speculator, weights, temperature, unheld, 56)
        for suite in given.suite or SUITES:
            name = f"{suite}, temperature {temperature:g}"
            if name not in report["tables"]:
                prompts = random.Random(0).sample(suites[suite], min(given.prompts, len(suites[suite])))
                report["tables"][name] = table(speculator, together, prompts, given.max_new_tokens, temperature, costs, weights)
                if given.json:
                    given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            print(page(name, report["tables"][name]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
