"""`anydraft train`: a lookahead control for one pair of models and one temperature."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated

import typer

RECIPES = ("disco", "specdec_plus_plus")


def train(
    control: Annotated[str, typer.Argument(help=f"What to train: {', '.join(RECIPES)}.")],
    model: Annotated[str | None, typer.Option(help="Target: a folder or a hub name. Default: the bundled one.")] = None,
    assistant_model: Annotated[str | None, typer.Option(help="Drafter: a folder or a hub name. Default: the bundled one.")] = None,
    prompts: Annotated[Path | None, typer.Option(help='JSON lines with "text" or "prompt". Default: the bundled prompts.')] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write. Default: CONTROL.safetensors.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the requests that it will decide about.")] = 0.0,
    lookahead: Annotated[int, typer.Option(help="Longest draft.", min=2)] = 12,
    max_new_tokens: Annotated[int, typer.Option(help="Generated per prompt.", min=8)] = 96,
    limit: Annotated[int, typer.Option(help="Most prompts used.", min=4)] = 48,
):
    """Train a control that decides after each drafted token whether to draft another."""
    from anydraft import zoo
    from anydraft.core.errors import BadOption, UnknownMethod, nearest
    from anydraft.speculator import Speculator

    if control not in RECIPES:
        close = nearest(control, RECIPES)
        raise UnknownMethod(f"there is no recipe {control!r}", expected="one of " + ", ".join(RECIPES),
                            next_step=f"Did you mean {close!r}?" if close else "The other controls need no training")  # fmt: skip
    texts = [line["text"] for line in zoo.prompts()] if prompts is None else read(prompts)
    if len(texts) < 4:
        raise BadOption("too few prompts to train on", got=len(texts), expected="at least 4")
    spread = texts[:: max(1, len(texts) // limit)][:limit]
    pair = Speculator.from_pretrained(
        model or zoo.path("target"), assistant_model or zoo.path("draft-bpe"), method="draft_model", num_assistant_tokens=lookahead
    )
    recipe = importlib.import_module(f"anydraft.training.{control}")
    into = output or Path(f"{control}.safetensors")
    recipe.train(pair, spread, into, temperature=temperature, k=lookahead, tokens=max_new_tokens)
    print(f"wrote {into}; use it with control={control!r}, weights={str(into)!r}")


def read(path: Path) -> list[str]:
    """The texts of a file of JSON lines; raises BadOption with the line that is none."""
    from anydraft.core.errors import BadOption

    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as cause:
        raise BadOption(f"{str(path)!r} cannot be read", got=cause.strerror) from cause
    for number, line in enumerate(lines, 1):
        try:
            held = json.loads(line)
            found.append(held.get("text") or held["prompt"])
        except (ValueError, KeyError, AttributeError) as cause:
            raise BadOption(f"line {number} of {str(path)!r} holds no prompt", expected='{"text": ...} or {"prompt": ...}') from cause
    return found
