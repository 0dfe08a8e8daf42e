"""`make bench`: this library and transformers on the bundled models, interleaved in one run, in two to three minutes.

For the whole grid, suites, resumption and the report with plots: `anydraft bench --help`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from anydraft.bench import hardware
from anydraft.bench.measure import Contender, Job, Measurement, measure_round, paired_ratio, warm_up

REFERENCE = "transformers plain"
AGAINST = {  # each of ours and its counterpart
    "anydraft none": "transformers plain",
    "anydraft draft_model": "transformers assisted default",
    "anydraft prompt_lookup": "transformers prompt lookup k=10",
    "anydraft token_recycling": "transformers plain",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints one table, and returns 0 if all outputs were identical, else 1."""
    parser = argparse.ArgumentParser(prog="python -m anydraft.bench", description=__doc__)
    parser.add_argument("--prompts", type=int, default=6, help="held-out prompts (6)")
    parser.add_argument("--repetitions", type=int, default=2, help="rounds on each prompt (2)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens per prompt (64)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    asked = parser.parse_args(arguments)
    jobs = bundled_jobs(asked.prompts, asked.max_new_tokens)
    rivals = contenders()
    errors = warm_up(rivals, jobs[0])
    measured = []
    for repetition in range(asked.repetitions):
        for place, job in enumerate(jobs):
            measured += measure_round(rivals, job, repetition, session=0, reference=REFERENCE, turn=repetition * len(jobs) + place)
            print(f"\r{repetition * len(jobs) + place + 1}/{asked.repetitions * len(jobs)} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = table(measured, [c.name for c in rivals])
    print(json.dumps({"hardware": hardware.facts(), "rows": rows}, indent=2)) if asked.json else show(rows, errors)
    return 0 if all(m.same for m in measured) else 1


def bundled_jobs(count: int, max_new_tokens: int) -> list[Job]:
    """Held-out prompts, spread over the list so that many source files take part."""
    from transformers import AutoTokenizer

    from anydraft import zoo

    tokenizer = AutoTokenizer.from_pretrained(str(zoo.path("target")))
    held = zoo.prompts()
    chosen = held[:: max(1, len(held) // count)][:count]
    return [Job(p["id"], [tokenizer(p["text"]).input_ids], max_new_tokens) for p in chosen]


def contenders() -> list[Contender]:
    """Four of ours, three of theirs; the weights of ours are shared, since nothing here changes them."""
    from anydraft.bench import peers
    from anydraft.bench.ours import Ours
    from anydraft.bench.pairs import Pair, Settings

    pair = Pair.load("target", "draft-bpe")
    theirs, _ = peers.contenders("transformers", pair, Settings(lookaheads=()))
    methods = ("none", "draft_model", "prompt_lookup", "token_recycling")
    ours = [
        Ours(pair.target, pair.tokenizer, m, assistant_model=pair.drafter if m == "draft_model" else None, label=f"anydraft {m}")
        for m in methods
    ]
    return [*theirs, *ours]


def table(measured: list[Measurement], names: list[str]) -> list[dict[str, Any]]:
    """One row per contender: tokens per second, ratios to transformers' plain decoding and to the counterpart, identity."""
    rows = []
    for name in names:
        own = [m for m in measured if m.contender == name and m.error is None]
        versus = AGAINST.get(name)
        seconds, facts = sum(m.seconds for m in own), [m.facts for m in own if m.facts]
        steps = sum(f["steps"] for f in facts)
        rows.append(
            {
                "contender": name,
                "tokens_per_s": sum(m.tokens for m in own) / seconds if seconds else None,
                "to_plain": paired_ratio(measured, name, REFERENCE),
                "counterpart": versus,
                "to_counterpart": paired_ratio(measured, name, versus) if versus else None,
                "mean_acceptance_length": 1 + sum(f["accepted"] for f in facts) / steps if steps else None,
                "identical": f"{sum(bool(m.same) for m in own)}/{len(own)}",
                "error": next((m.error for m in measured if m.contender == name and m.error), None),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], errors: dict[str, str]) -> None:
    """Prints the table and under it what the columns mean."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    printed = Table(box=box.SIMPLE_HEAD)
    printed.add_column("Contender", no_wrap=True)
    for heading in ("tokens/s", "to plain", "to counterpart", "accepted", "identical"):
        printed.add_column(heading, justify="right")
    for row in rows:
        speed = f"{row['tokens_per_s']:.1f}" if row["tokens_per_s"] else "error"
        length = f"{row['mean_acceptance_length']:.2f}" if row["mean_acceptance_length"] else "-"
        printed.add_row(row["contender"], speed, str(row["to_plain"] or "-"), str(row["to_counterpart"] or "-"), length, row["identical"])
    console = Console()
    console.width = max(console.width, 110)  # a pipe has 80 columns, in which intervals would break
    console.print(printed)
    facts = hardware.facts()
    console.print(
        f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, transformers {facts['transformers']}, float32, greedy."
    )
    console.print(
        "Ratios of tokens/s, paired within interleaved rounds, with 95 % bootstrap intervals over prompts; `accepted` is the mean "
        f"length of a step. Counterparts: {', '.join(f'{own} to {other}' for own, other in AGAINST.items())}.",
        highlight=False,
    )
    for name, error in errors.items():
        console.print(f"{name}: {error}", style="red", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
