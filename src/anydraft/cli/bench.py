"""`anydraft bench`: speed, measured so that others can believe it; resumable, with a report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anydraft.bench.grid import Grid
    from anydraft.bench.suites import Item


def bench(
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl, report.html and plots; an existing one is continued.")],
    suite: Annotated[str, typer.Option(help="bundled, a .jsonl or .txt file, or hub:NAME[:SPLIT].")] = "bundled",
    model: Annotated[list[str] | None, typer.Option(help="Target; repeatable. The bundled one if left out.")] = None,
    assistant_model: Annotated[list[str] | None, typer.Option(help="Drafter, 'none' for no drafter; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable. 'all': every one that fits the drafter.")] = None,
    num_assistant_tokens: Annotated[list[int] | None, typer.Option(help="Lookahead; repeatable.")] = None,
    temperature: Annotated[list[float] | None, typer.Option(help="Repeatable; the first gets every lookahead.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Repeatable; the first gets every lookahead.")] = None,
    top_p: Annotated[float, typer.Option(help="Above temperature 0.")] = 1.0,
    peers: Annotated[list[str] | None, typer.Option(help="transformers, llama_cpp or openvino; repeatable.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens per prompt.")] = 48,
    prompts: Annotated[int, typer.Option(help="Prompts, spread evenly over the suite's tasks; 0 for all.")] = 8,
    repetitions: Annotated[int, typer.Option(help="Rounds on each prompt.")] = 1,
    budget: Annotated[float, typer.Option(help="Begin no round after so many seconds; 0 for no limit. The same command goes on later.")] = 480.0,
    full: Annotated[bool, typer.Option("--full", help="Every lookahead at every temperature and batch size, no budget, every prompt.")] = False,
    page: Annotated[Path | None, typer.Option(help="Also put tables and plots into this Markdown page, between its markers.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="Also write each method's answers in Spec-Bench's format.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
):
    """Measure methods and peers side by side, and write a report."""
    from anydraft.bench.grid import Grid
    from anydraft.bench.suites import load

    items = load(suite)
    grid = Grid(
        targets=tuple(model or ["target"]),
        drafters=tuple(assistant_model or (["draft-bpe", "draft-spm"] if not model else ["none"])),
        methods=tuple(method or ["all"]),
        lookaheads=tuple(sorted(num_assistant_tokens or [2, 4, 8])),
        temperatures=tuple(temperature or [0.0, 0.6, 1.0]),
        batch_sizes=tuple(batch_size or [1]),
        peers=tuple(peers or []),
        repetitions=repetitions,
        max_new_tokens=max_new_tokens,
        top_p=top_p,
        full=full,
        dtype=dtype,
        device=device,
    )
    check(grid, prompts, page)
    measure(grid, suite, items, None if full or prompts == 0 else prompts, out, None if full or budget == 0 else budget, answers)
    if page is not None:
        from anydraft.bench.page import rewrite

        rewrite(out, page)


def check(grid: Grid, prompts: int, page: Path | None) -> None:
    """Raises BadOption for numbers that cannot be run, before anything is loaded."""
    from anydraft.bench import peers
    from anydraft.core import discover
    from anydraft.core.errors import BadOption

    lows = {"num-assistant-tokens": (grid.lookaheads, 1), "batch-size": (grid.batch_sizes, 1), "temperature": (grid.temperatures, 0)}
    lows |= {"max-new-tokens": ((grid.max_new_tokens,), 2), "repetitions": ((grid.repetitions,), 1), "prompts": ((prompts,), 0)}
    for name, (values, low) in lows.items():
        if min(values) < low:
            raise BadOption(f"--{name} is not usable", got=min(values), expected=f"at least {low}")
    if page is not None and not page.is_file():
        raise BadOption(f"there is no page {page.name}", expected="a Markdown file with the markers of docs/benchmarks.md")
    for system in grid.peers:
        if system not in peers.names():
            raise BadOption(f"no peer is named {system!r}", expected="of " + ", ".join(peers.names()))
    for method in grid.methods:
        if method not in ("all", "auto"):
            discover.load("drafters", method)


def measure(grid: Grid, suite: str, items: list[Item], prompts: int | None, out: Path, budget: float | None, answers: bool) -> None:
    """Runs or continues the benchmark in a folder, with a progress bar, and writes the report."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from anydraft.bench import grid as grids
    from anydraft.bench import hardware, report
    from anydraft.bench.bandwidth import bandwidth
    from anydraft.bench.store import Store
    from anydraft.bench.suites import pick
    from anydraft.cli import _terminal

    _terminal.quiet()
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    chosen = pick(items, prompts)
    rest = [item for item in items if item not in chosen] or items
    settings = {**asdict(grid), "targets": [_last(n) for n in grid.targets], "drafters": [_last(n) for n in grid.drafters]}
    store = Store(out / "results.jsonl", {**settings, "suite": _last(suite), "prompts": [item.id for item in chosen]})
    if not store.of("machine"):
        device = grid.device or "cpu"
        store.add("machine", **hardware.facts(device), read_gb_s=bandwidth(device).read)
    filled, pairs = grids.blocks(grid), {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("loading", total=None)
        for block in filled:
            grids.fill(block, grid, chosen, rest, pairs)
            store.add("block", **grids.facts(block))
        bar.update(task, total=grid.repetitions * sum(len(b.jobs) for b in filled))
        done, total = grids.run(filled, grid, store, budget_s=budget, advance=lambda said: bar.update(task, advance=1, description=said))
    if answers:
        from anydraft.bench.answers import write_answers

        write_answers(filled[0], chosen, grid.max_new_tokens, out / "answers")
    report.write(store, out)
    left = f"; the budget ended the run, the same command continues it: {total - done} rounds left" if done < total else ""
    print(f"{done} of {total} rounds{left}. Report: {out}/report.html")


def _last(name: str) -> str:
    """The last part of a path: results name models and suites, not folders."""
    return name.rstrip("/").rpartition("/")[2]
