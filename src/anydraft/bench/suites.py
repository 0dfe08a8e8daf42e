"""Prompts to measure with: bundled held-out code, Spec-Bench, HumanEval-style and summarisation-style JSONL, text, a hub data set.

A suite is a list of `Item`s. Where it comes from is told apart by what stands in the file, so a user gives a path and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydraft import zoo
from anydraft.core.errors import BadOption, BadPrompt


@dataclass(frozen=True, slots=True)
class Item:
    """One conversation: usually one turn, and then a prompt."""

    id: str
    task: str  # reports group by it
    turns: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The first turn."""
        return self.turns[0]


BUNDLED_TASKS = ("code completion", "docstring", "editing", "long context")


def bundled() -> list[Item]:
    """Held-out standard-library code in four tasks, made from the zoo's prompts; nothing is downloaded.

    code completion: real code that stops somewhere. docstring: code that stops just behind an opening docstring. editing: a
    passage, then the same passage to be written again with a change, most of which is copying. long context: several passages of
    one file in a row.
    """
    held = [p for p in zoo.prompts() if len(p["text"]) > 120]
    items = [Item(p["id"], BUNDLED_TASKS[0], (p["text"],)) for p in held]
    items += [Item(f"{p['id']}-doc", BUNDLED_TASKS[1], (text,)) for p in held if (text := _up_to_docstring(p["text"]))]
    items += [Item(f"{p['id']}-edit", BUNDLED_TASKS[2], (_edited(p["text"]),)) for p in held if 300 < len(p["text"]) < 900]
    return items + _long(held)


def _up_to_docstring(text: str) -> str | None:
    """The text up to and with an opening docstring that stands in its second half, if there is one."""
    place = text.rfind('    """')
    if place < len(text) // 3 or text[:place].count('"""') % 2:
        return None
    return text[: place + 7]


def _edited(text: str) -> str:
    """Write it twice, the second time renamed: the copy is begun so that the model goes on with it."""
    body = text.strip("\n")
    start = body[: max(20, len(body) // 6)]
    return f"# version 1\n{body}\n\n\n# version 2, the same with type hints\n{start}"


def _long(held: list[dict[str, str]], characters: int = 2200) -> list[Item]:
    by_source: dict[str, list[str]] = {}
    for p in held:
        by_source.setdefault(p["source"], []).append(p["text"])
    joined = {source: "\n\n".join(texts)[-characters:] for source, texts in by_source.items()}
    return [Item(f"{source}-long", BUNDLED_TASKS[3], (text,)) for source, text in joined.items() if len(text) > characters // 2]


def load(name: str, *, column: str | None = None) -> list[Item]:
    """A suite by name or path.

    Args:
        name: "bundled", a .jsonl or .txt file, or "hub:OWNER/NAME[/CONFIG][:SPLIT]" for those who have `datasets`.
        column: which field of a line holds the prompt, where it is none of the known ones.
    Raises:
        BadOption: there is no such suite. BadPrompt: a line without a prompt.
    """
    if name == "bundled":
        return bundled()
    if name.startswith("hub:"):
        return _from_lines(enumerate(_hub(name[4:])), name, column)
    path = Path(name)
    if not path.is_file():
        raise BadOption(f"there is no suite {name!r}", expected="bundled, a .jsonl or .txt file, or hub:NAME", next_step="Check the path")
    if path.suffix == ".jsonl":
        return _from_lines(_lines(path), path.name, column)
    passages = [part.strip("\n") for part in path.read_text(encoding="utf-8").split("\n\n\n")]
    return [Item(f"{path.stem}-{n}", path.stem, (text,)) for n, text in enumerate(passages) if text.strip()]


def texts(name: str | None) -> list[str]:
    """The first turns of a suite; the zoo's prompts without a name."""
    return [p["text"] for p in zoo.prompts()] if name is None else [item.prompt for item in load(name)]


def pick(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most `count` items, as evenly over the tasks and over each task's items as they go."""
    if count is None or count >= len(items):
        return list(items)
    tasks = list(dict.fromkeys(item.task for item in items))
    shares = {task: count // len(tasks) + (n < count % len(tasks)) for n, task in enumerate(tasks)}
    chosen: list[Item] = []
    for task, share in shares.items():
        own = [item for item in items if item.task == task]
        chosen += [own[i * len(own) // share] for i in range(min(share, len(own)))]
    return chosen


# -- formats ---------------------------------------------------------------------------------------------------------


def _turns(row: dict[str, Any]) -> Sequence[str] | None:
    return row.get("turns")


def _article(row: dict[str, Any]) -> Sequence[str] | None:
    for name in ("article", "document", "dialogue"):
        if isinstance(row.get(name), str):
            return [f"{row[name]}\n\nSummary:"]
    return None


def _plain(row: dict[str, Any]) -> Sequence[str] | None:
    return next(([row[name]] for name in ("prompt", "text", "question", "instruction") if isinstance(row.get(name), str)), None)


READERS: tuple[Callable[[dict[str, Any]], Sequence[str] | None], ...] = (_turns, _article, _plain)
"""Spec-Bench (`turns`), summarisation (`article`, `document`, `dialogue`), HumanEval and everything simple (`prompt`, `text`, ...)."""


def _from_lines(rows: Iterable[tuple[int, dict[str, Any]]], where: str, column: str | None) -> list[Item]:
    items = []
    for number, row in rows:
        found = (
            ([row[column]] if isinstance(row.get(column), str) else None)
            if column
            else next((t for read in READERS if (t := read(row))), None)
        )
        if not found or not all(isinstance(t, str) and t for t in found):
            raise BadPrompt(
                f"line {number + 1} of {where} holds no prompt",
                got="fields " + ", ".join(map(str, row)),
                expected=column or "turns, prompt, text, article, document or dialogue",
            )
        name = next((str(row[key]) for key in ("question_id", "task_id", "id") if key in row), str(number))
        items.append(Item(name, str(row.get("category", Path(where).stem)), tuple(found)))
    return items


def _lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadPrompt(f"line {number + 1} of {path.name} is not JSON", got=line[:60], next_step=str(error)) from error
        if not isinstance(row, dict):
            raise BadPrompt(f"line {number + 1} of {path.name} is not an object", got=line[:60])
        yield number, row


def _hub(name: str) -> Iterable[dict[str, Any]]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadOption(f"hub:{name} needs the library `datasets`", next_step="pip install datasets, or save the set as JSONL") from error
    where, _, split = name.partition(":")
    owner, *rest = where.split("/")
    config = rest.pop() if len(rest) == 2 else None  # OWNER/NAME/CONFIG
    try:
        return load_dataset("/".join([owner, *rest]), config, split=split or "test")
    except Exception as error:  # of a network, a name, a split: whatever it is, nothing has been run yet
        said = (str(error).splitlines() or [""])[0]
        raise BadOption(f"hub:{name} cannot be read", got=said, expected="OWNER/NAME[/CONFIG][:SPLIT]", next_step="Check each part of it") from error


def spec_bench_answer(item: Item, turns: list[dict[str, Any]], model: str, stamp: float) -> dict[str, Any]:
    """One line in Spec-Bench's answer format.

    Args:
        turns: per turn `text`, `new_tokens`, `wall_time` in seconds, `accept_lengths` (tokens of each step, the target's own included).
        stamp: seconds since 1970.
    """
    number = int(item.id) if item.id.isdigit() else item.id
    columns = {name: [t[name] for t in turns] for name in ("new_tokens", "wall_time")}
    choice = {"index": 0, "turns": [t["text"] for t in turns], "decoding_steps": [len(t["accept_lengths"]) for t in turns], **columns}
    choice["accept_lengths"] = [length for t in turns for length in t["accept_lengths"]]
    return {
        "question_id": number,
        "category": item.task,
        "answer_id": f"{model}-{item.id}",
        "model_id": model,
        "choices": [choice],
        "tstamp": stamp,
    }
