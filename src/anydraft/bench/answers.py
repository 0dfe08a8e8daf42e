"""Answers in Spec-Bench's format, so that its own scripts can compare methods."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anydraft.bench.grid import Block
from anydraft.bench.measure import Job
from anydraft.bench.ours import Ours
from anydraft.bench.suites import Item, spec_bench_answer


def write_answers(block: Block, items: Sequence[Item], max_new_tokens: int, folder: Path) -> list[Path]:
    """One file per method of ours: every question, turn after turn, each turn's prompt ending with the turns and answers before it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for contender in block.contenders:
        if not isinstance(contender, Ours):
            continue
        name = contender.name.removeprefix("anydraft ").replace(" ", "-").replace("=", "")
        lines = [spec_bench_answer(item, answered(contender, item, max_new_tokens, block.temperature), name, time.time()) for item in items]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        made.append(path)
    return made


def answered(contender: Ours, item: Item, max_new_tokens: int, temperature: float) -> list[dict[str, Any]]:
    """Per turn its text, new tokens, seconds and accepted lengths."""
    s, said, turns = contender.speculator, "", []
    for turn in item.turns:
        said = f"{said}\n\n{turn}" if said else turn
        room = (s.target.max_length or 1 << 30) - max_new_tokens - 40
        outcome = contender.run(Job(item.id, [list(s.tokenizer(said).input_ids)[-room:]], max_new_tokens, temperature))
        text = s.decode(outcome.tokens[0])
        said += text
        turns.append(
            {
                "text": text,
                "new_tokens": len(outcome.tokens[0]),
                "wall_time": outcome.seconds,
                "accept_lengths": outcome.facts["accept_lengths"],
            }
        )
    return turns
