"""Lookahead controls side by side on the bundled pairs: three suites, two temperatures, and the share of what an oracle would reach.

    python -m anydraft.bench.controls [--prompts 6] [--max-new-tokens 64] [--pair same|other] [--json FILE]

Each control's steps are counted: drafted levels, and target forwards by width. The time is modelled: those counts at costs measured once at the
start, so that programs which share the machine disturb every control alike, and seconds of the wall are given beside it. The oracle
drafts exactly what will stand, in the same model. The best fixed k is found by sweep on the same prompts, which favours it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
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
from anydraft.planning.profile import costs as measure
from anydraft.speculator import Speculator
from anydraft.training.traces import steps

SWEEP = (1, 2, 3, 4, 6, 8)
SUITES = BUNDLED_TASKS[:3]


class Count:
    """What one control did on one suite."""

    def __init__(self) -> None:
        self.tokens, self.levels, self.stood, self.wall = 0, 0, 0, 0.0
        self.widths: list[tuple[int, int]] = []  # (levels, nodes) of each step
        self.by_prompt: list[tuple[int, list[tuple[int, int]]]] = []

    def speedup(self, costs: Costs, picks: list[int] | None = None) -> float:
        """Plain seconds over ours, modelled from the counts; of these prompts, or of all."""
        chosen = self.by_prompt if picks is None else [self.by_prompt[i] for i in picks]
        return sum(n for n, _ in chosen) * costs.step(0) / sum(costs.step(d, 1, w) for _, taken in chosen for d, w in taken)


def count(speculator: Speculator, control: Callable[[], Any], prompts: list[str], tokens: int, temperature: float) -> Count:
    """Runs a fresh control on each prompt."""
    made = Count()
    for number, prompt in enumerate(prompts):
        requests = speculator.requests(prompt, max_new_tokens=tokens, temperature=temperature, seed=number, ignore_eos=True)
        emitted, taken = 0, []
        start = time.perf_counter()
        for step in steps(speculator, requests, control()):
            nodes = int(step.draft.live[0].sum()) if step.draft.nodes else 0
            emitted += int(step.emitted[0])
            taken.append((nodes, nodes))
            made.stood += len(step.path[0])
            made.levels += nodes
        made.wall += time.perf_counter() - start
        made.tokens += emitted
        made.by_prompt.append((emitted, taken))
    return made


def oracle(long: Count, stood: list[list[int]]) -> Count:
    """The same steps with exactly the tokens drafted that stood: what perfect foresight of a long draft brings."""
    made = Count()
    made.by_prompt = [(n, [(s, s) for s in runs]) for (n, _), runs in zip(long.by_prompt, stood)]
    return made


def accepted(speculator: Speculator, prompts: list[str], k: int, tokens: int, temperature: float) -> tuple[Count, list[list[int]]]:
    """The count of a long fixed lookahead, and how many tokens stood in each of its steps."""
    found: list[list[int]] = []

    class Noting(Fixed):
        def keep(self, step: Any) -> None:
            found[-1].append(len(step.path[0]))

    def fresh() -> Noting:
        found.append([])
        return Noting(k)

    return count(speculator, fresh, prompts, tokens, temperature), found


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
        "auto": lambda: Auto(5, 16, costs, costs, experience),
    }
    for name, cls in (("disco", DISCO), ("specdec_plus_plus", SpecDecPlusPlus)):
        file = weights / f"{name}-{pair}{'' if temperature == 0 else f'-{temperature:g}'}.safetensors"
        if pair is not None and file.is_file():
            made[name] = lambda cls=cls, file=file: cls(file, pair=pair)
    return made


def interval(made: Count, against: Count, costs: Costs, draws: int = 500) -> tuple[float, float]:
    """95 % bootstrap interval, over prompts, of one control's speed over another's."""
    rng, n = random.Random(0), len(made.by_prompt)
    picks = [[rng.randrange(n) for _ in range(n)] for _ in range(draws)]
    ratios = sorted(made.speedup(costs, p) / against.speedup(costs, p) for p in picks)
    return ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]


def table(speculator: Speculator, prompts: list[str], tokens: int, temperature: float, costs: Costs, weights: Path) -> dict[str, Any]:
    """Every control on one suite."""
    fixed = {k: count(speculator, lambda k=k: Fixed(k), prompts, tokens, temperature) for k in SWEEP}
    best = max(fixed, key=lambda k: fixed[k].speedup(costs))
    ideal = oracle(*accepted(speculator, prompts, 16, tokens, temperature)).speedup(costs)
    report = {f"fixed {best} (best of the sweep)": fixed[best]}
    for name, control in contenders(costs, temperature, speculator.pace.pair, weights).items():
        try:
            report[name] = count(speculator, control, prompts, tokens, temperature)
        except AnydraftError as error:
            print(f"  {name}: left out: {error}")
    rows = {}
    for name, made in report.items():
        low, high = interval(made, fixed[best], costs)
        speed = made.speedup(costs)
        rows[name] = {
            "speedup": speed, "over_fixed": speed / fixed[best].speedup(costs), "low": low, "high": high, "of_oracle": speed / ideal,
            "levels_per_token": made.levels / made.tokens, "wall_s": made.wall,
        }  # fmt: skip
    return rows | {"oracle": {"speedup": ideal, "over_fixed": ideal / fixed[best].speedup(costs), "of_oracle": 1.0}}


def typical(speculator: Speculator, prompt: torch.Tensor) -> Costs:
    """Of three measurements, the one with the median cost of a draft level in plain steps."""
    found = [measure(speculator.target, speculator.parts().drafter, prompt, repeats=7) for _ in range(3)]
    return sorted(found, key=lambda c: c.draft / c.v(1))[1]


def main(arguments: list[str] | None = None) -> int:
    """Prints one table per suite and temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--pair", choices=("same", "other"), default="same")
    parser.add_argument("--temperature", type=float, action="append")
    parser.add_argument("--suite", action="append")
    parser.add_argument("--costs", type=Path, help="JSON with draft_s and verify_s, as this writes it: other times than those of this moment")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    target, tokenizer = load(str(zoo.path("target")))
    drafter, its = load(str(zoo.path("draft-bpe" if given.pair == "same" else "draft-spm")))
    method = "draft_model" if given.pair == "same" else "tli"
    speculator = Speculator(target, tokenizer, drafter, its, method=method, num_assistant_tokens=16)
    if given.pair == "same":
        speculator._assistant.offers_hidden = True
    held = {p["id"] for n, p in enumerate(zoo.prompts()) if n % 2}  # the trained controls have seen the others
    suites = {s: [i.prompt for i in bundled() if i.task == s and i.id.removesuffix("-doc").removesuffix("-edit") in held] for s in SUITES}
    prompt = torch.tensor(tokenizer(zoo.demo_prompt()["text"]).input_ids)[:128]
    costs = Costs.from_dict(json.loads(given.costs.read_text(encoding="utf-8"))) if given.costs else typical(speculator, prompt)
    verify = ", ".join(f"v({n}) {1e3 * s:.2f}" for n, s in costs.verify)
    print(f"{'given' if given.costs else 'measured'}, ms: draft level {1e3 * costs.draft:.2f}, start {1e3 * costs.start:.2f}, {verify}")
    report: dict[str, Any] = {"costs": costs.as_dict(), "threads": torch.get_num_threads(), "tables": {}}
    for temperature in given.temperature or (0.0, 1.0):
        for suite in given.suite or SUITES:
            rng = random.Random(0)
            prompts = rng.sample(suites[suite], min(given.prompts, len(suites[suite])))
            rows = table(speculator, prompts, given.max_new_tokens, temperature, costs, zoo.FOLDER / "controls")
            report["tables"][f"{suite}, temperature {temperature:g}"] = rows
            print(f"\n{suite}, temperature {temperature:g}, {len(prompts)} prompts x {given.max_new_tokens} tokens, {method} (modelled from counts)")
            for name, row in sorted(rows.items(), key=lambda item: -item[1]["speedup"]):
                spread = f"[{row['low']:.3f}, {row['high']:.3f}]" if "low" in row else ""
                print(f"  {name:28s} {row['speedup']:.3f}  over fixed {row['over_fixed']:.3f} {spread:16s}  of oracle {row['of_oracle']:.3f}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
