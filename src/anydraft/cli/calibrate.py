"""`anydraft calibrate`: measures on a target what a method has to know about it, and writes it to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anydraft.core.errors import BadModel, BadOption, BadPrompt

if TYPE_CHECKING:
    from anydraft.speculator import Speculator
    from anydraft.training.calibration import Coverage

KINDS = ("rdk", "fr_spec")  # both read the same file: the target's mean law
PROMPT, EACH = 48, 64  # ids of a prompt, and generated behind it


def calibrate(
    kind: Annotated[str, typer.Argument(help=f"What for: {' or '.join(KINDS)} (one file serves both).")],
    output: Annotated[Path, typer.Option(help="Where the statistics go, a safetensors file.")] = Path("statistics.safetensors"),
    model: Annotated[str | None, typer.Option(help="Target: a folder or a hub name. Default: the bundled one.")] = None,
    input_: Annotated[list[Path] | None, typer.Option("--input", help="Text that the target is to continue; repeatable. Use what it will serve.")] = None,
    tokens: Annotated[int, typer.Option(help="How many laws to average.")] = 16384,
    temperature: Annotated[float, typer.Option(help="The temperature that will be served; 0 is greedy.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the generated texts.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Texts at once.")] = 8,
    prune: Annotated[float | None, typer.Option(help="Also write a pruned head with this share of the vocabulary, to --d2t.")] = None,
    d2t: Annotated[Path | None, typer.Option(help="A pruned head in the form of speculators checkpoints (d2t, t2d): written with --prune, "
                                                  "else read and judged.")] = None,
):
    """Measure the target's mean law on its own texts, show how few tokens hold how much of it, and write it down."""
    _check(kind, output, tokens, temperature, batch_size, prune, d2t)
    texts = _texts(input_, bundled=model is None)
    from anydraft import zoo
    from anydraft.cli import _terminal
    from anydraft.speculator import Speculator
    from anydraft.training.calibration import coverage, covered, measured
    from anydraft.vocabulary.pruning import PrunedHead, required_ids
    from anydraft.vocabulary.pruning import prune as pruned
    from anydraft.vocabulary.statistics import save_mean_law

    _terminal.quiet()
    speculator = Speculator.from_pretrained(model or str(zoo.path("target")), method="none", max_batch_size=batch_size)
    vocabulary = speculator.pair.target
    head = None
    if d2t is not None and prune is None:  # read before the work starts
        head = PrunedHead.load(d2t)
        if head.width != vocabulary.width:
            raise BadModel("the pruned head is of another vocabulary", got=f"{head.width} tokens", expected=f"{vocabulary.width}")
    found = measured(_steps(speculator, texts, tokens, temperature, seed), vocabulary.width)
    rows = coverage(found.mean, vocabulary)
    if head is not None:
        rows.append(covered(found.mean, head))
    if prune is not None and d2t is not None:
        head = pruned(found.mean, prune, required_ids(vocabulary))
        head.save(d2t)
        rows.append(covered(found.mean, head, prune))
    save_mean_law(output, found.mean, vocabulary, found.seen)
    _show(rows, found.seen, vocabulary.width, temperature)
    print(f"written: {output}; use it with --method {kind} --option statistics={output}, in Python statistics={str(output)!r}")


def _check(kind: str, output: Path, tokens: int, temperature: float, batch_size: int, prune: float | None, d2t: Path | None) -> None:
    """Raises BadOption for whatever can be known to be wrong before a model is loaded."""
    if kind not in KINDS:
        raise BadOption("nothing to calibrate by this name", got=kind, expected=" or ".join(KINDS))
    for name, value in (("--tokens", tokens), ("--batch-size", batch_size)):
        if value < 1:
            raise BadOption(f"{name} is not usable", got=value, expected="an integer >= 1")
    if not 0 <= temperature < float("inf"):
        raise BadOption("--temperature is not usable", got=temperature, expected="a number >= 0")
    if prune is not None and not 0 < prune <= 1:
        raise BadOption("--prune is not usable", got=prune, expected="a share of the vocabulary, above 0 and at most 1")
    if prune is not None and d2t is None:
        raise BadOption("--prune has nowhere to write", next_step="Name a file with --d2t")
    for name, path in (("--output", output), ("--d2t", d2t if prune is not None else None)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise BadOption(f"{name} {path} cannot be written", expected="the name of a file in a folder that exists")


def _texts(files: list[Path] | None, bundled: bool) -> list[str]:
    if not files:
        if not bundled:
            raise BadPrompt("there is no text for the target to continue", next_step="Name files with --input: texts like those it will serve")
        from anydraft import zoo

        return [prompt["text"] for prompt in zoo.prompts()]
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadPrompt(f"{file} cannot be read", got=error, expected="a text file in UTF-8") from None
        if not texts[-1].strip():
            raise BadPrompt(f"{file} holds no text")
    return texts


def _steps(speculator: Speculator, texts: list[str], tokens: int, temperature: float, seed: int):
    """Steps of plain decoding, until `tokens` laws were seen."""
    from anydraft.training.calibration import passages

    ids = [speculator.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    each = min(EACH, tokens)
    count = -(-tokens // each)
    room = speculator.target.max_length
    prompts = passages(ids, count, PROMPT if room is None else max(1, min(PROMPT, room - each - 1)))
    left = tokens
    while left > 0:  # where texts end early, or are few, they are continued again with other seeds
        wanted = [p.tolist() for p in prompts[: -(-left // each)]]
        options = {"max_new_tokens": each, "temperature": temperature, "seed": [seed + n for n in range(len(wanted))]}
        before = left
        for step in speculator.run(speculator.requests(wanted, **options)).steps():
            yield step
            left -= step.before.size
            if left <= 0:
                return
        seed += len(wanted)
        if left == before:
            raise BadPrompt("the target says nothing about these texts", next_step="Give others with --input")


def _show(rows: list[Coverage], seen: int, width: int, temperature: float) -> None:
    """Prints the coverage as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    print(f"mean of {seen} laws at temperature {temperature:g}, {width} tokens")
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("share", "tokens", "mass"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row("as read" if row.asked is None else f"{row.asked:.0%}", str(row.tokens), f"{row.mass:.4f}")
    Console().print(table)
