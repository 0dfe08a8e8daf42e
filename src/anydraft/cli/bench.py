"""`anydraft bench`: speed, measured so that others can believe it; resumable, with a report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from anydraft.bench.grid import Grid
    from anydraft.bench.suites import Item
    from anydraft.planning.plan import Plan


def bench(
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl, report.html and plots; an existing one is continued.")],
    suite: Annotated[str, typer.Option(help="bundled, a .jsonl or .txt file, or hub:OWNER/NAME[/CONFIG][:SPLIT].")] = "bundled",
    model: Annotated[list[str] | None, typer.Option(help="Target, 'random:llama-8b' for random weights of that shape; "
                                                                "repeatable. The bundled one if left out.")] = None,
    assistant_model: Annotated[list[str] | None, typer.Option(help="Drafter, 'none' for no drafter; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable. 'all': every one that fits the drafter.")] = None,
    num_assistant_tokens: Annotated[list[int] | None, typer.Option(help="Lookahead; repeatable.")] = None,
    temperature: Annotated[list[float] | None, typer.Option(help="Repeatable; the first gets every lookahead.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Repeatable; the first gets every lookahead.")] = None,
    top_p: Annotated[float, typer.Option(help="Above temperature 0.")] = 1.0,
    schedule: Annotated[list[str] | None, typer.Option(help="sequential, dsi or pearl; repeatable: all of them meet in every round.")] = None,
    target_replicas: Annotated[int, typer.Option(help="Replicas of the target, for dsi; spares, for pearl.")] = 1,
    executor: Annotated[str, typer.Option(help="Where a parallel schedule runs: threads, processes or ray.")] = "threads",
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster. Default: a new one on this machine.")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For every method that takes it, such as statistics=FILE; "
                                                                                 "repeatable.")] = None,
    forced_acceptance: Annotated[float | None, typer.Option(help="Make each proposal of a drafting model right with this probability, whatever it says: "
                                                                   "for random weights. Greedy only; the rows are marked.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A file from `anydraft plan`: its models, method, lookahead, temperature and batch.")] = None,
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
    from anydraft.cli.generate import chosen_dtype, named_value

    items, planned = load(suite), None
    drafters = assistant_model or (["none"] if model else ["draft-bpe", "draft-spm"])
    follows: dict[str, Any] = {}
    if plan is not None:
        planned, follows = followed(plan, {"--assistant-model": assistant_model, "--method": method, "--num-assistant-tokens": num_assistant_tokens})
        model, drafters = model or [planned.model], [follows.pop("assistant_model", "none")]
        temperature, batch_size = temperature or [planned.temperature], batch_size or [planned.batch]
    grid = Grid(
        targets=tuple(model or ["target"]),
        drafters=tuple(drafters),
        methods=tuple(method or ["all"]) if planned is None else (),
        lookaheads=tuple(sorted(num_assistant_tokens or [2, 4, 8])) if planned is None else looked_at(follows),
        temperatures=tuple(temperature or ([0.0, 0.6, 1.0] if forced_acceptance is None else [0.0])),
        batch_sizes=tuple(batch_size or [1]),
        peers=tuple(peers or []),
        repetitions=repetitions,
        max_new_tokens=max_new_tokens,
        top_p=top_p,
        full=full,
        dtype=chosen_dtype(dtype),
        device=device,
        schedules=tuple(schedule or ["sequential"]),
        target_replicas=target_replicas,
        executor=executor,
        ray_address=ray_address,
        options=tuple(map(named_value, option or ())),
        forced_acceptance=forced_acceptance,
        planned=tuple(follows.items()),
    )
    check(grid, prompts, page)
    measure(grid, suite, items, None if full or prompts == 0 else prompts, out, None if full or budget == 0 else budget, answers, planned)
    if page is not None:
        from anydraft.bench.page import rewrite

        rewrite(out, page)


def followed(path: Path, chosen: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """A plan and its settings. Raises BadOption if something was chosen that the plan has chosen already."""
    from anydraft.core.errors import BadOption
    from anydraft.planning.plan import Plan

    if twice := [name for name, value in chosen.items() if value]:
        raise BadOption(f"the plan says {', '.join(twice)} already", got="both", next_step="Leave it out, or leave out --plan")
    plan = Plan.load(path)
    return plan, plan.settings()


def looked_at(settings: dict[str, Any]) -> tuple[int, ...]:
    """The lookaheads at which costs are measured for a plan's contender."""
    k = settings.get("num_assistant_tokens")
    return (k,) if isinstance(k, int) and k > 0 else (4,)


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
    check_schedules(grid)
    check_options(grid)
    check_forced(grid)


def check_schedules(grid: Grid) -> None:
    """Raises UnknownMethod or BadOption for a schedule that cannot be."""
    from anydraft.core import discover
    from anydraft.core.errors import BadOption
    from anydraft.deploy import EXECUTORS, schedule_for

    parallel = [name for name in grid.schedules if name != "sequential"]
    for name in grid.schedules:
        discover.load("schedules", name)
    if grid.target_replicas < 1:
        raise BadOption("--target-replicas is not usable", got=grid.target_replicas, expected="at least 1")
    if grid.executor not in EXECUTORS:
        raise BadOption("there is no such executor", got=grid.executor, expected=", ".join(EXECUTORS))
    if not parallel and (grid.target_replicas != 1 or grid.executor != "threads" or grid.ray_address is not None):
        step = "Add --schedule dsi or --schedule pearl"
        raise BadOption("--target-replicas, --executor and --ray-address are for a parallel schedule", next_step=step)
    for name in parallel:  # what is left to refuse is said by who would run it; nothing is started
        schedule_for(None, name, grid.target_replicas, grid.executor, grid.ray_address)


def check_forced(grid: Grid) -> None:
    """Raises BadOption where acceptance is forced and nothing could be, BadModel for random weights of an unknown shape."""
    from anydraft.bench.random_weights import is_random, shape_of
    from anydraft.bench.steered import Steering
    from anydraft.core.errors import BadOption

    for name in filter(is_random, (*grid.targets, *grid.drafters)):
        shape_of(name)
    if grid.forced_acceptance is None:
        return
    Steering(grid.forced_acceptance)
    if max(grid.temperatures) > 0:
        raise BadOption("--forced-acceptance is for greedy decoding", got=f"--temperature {max(grid.temperatures):g}", next_step="Use --temperature 0")
    if "none" in grid.drafters:
        raise BadOption("--forced-acceptance needs a drafter", got="--assistant-model none", next_step="Name one, such as random:llama-1b")


def check_options(grid: Grid) -> None:
    """Raises UnknownOption for an option that no method takes, BadOption for a file that is not there."""
    from anydraft.build import parameters
    from anydraft.core import discover
    from anydraft.core.errors import BadOption, UnknownOption

    methods = grid.methods if grid.methods and "all" not in grid.methods else discover.names("drafters")
    known = {name for method in methods if method != "auto" for name in parameters(discover.load("drafters", method))}
    for name, value in grid.options:
        if name not in known:
            raise UnknownOption(f"none of the methods has an option {name!r}", next_step="`anydraft methods` names them; their files say what they take")
        if name == "statistics" and not Path(str(value)).is_file():
            raise BadOption("there is no such file of statistics", got=Path(str(value)).name, next_step="Write it with `anydraft calibrate rdk`")


def measure(grid: Grid, suite: str, items: list[Item], prompts: int | None, out: Path, budget: float | None, answers: bool,
            planned: Plan | None = None) -> None:  # fmt: skip
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
    del settings["ray_address"]  # says where, not what, and names a machine
    if grid.forced_acceptance is None:  # folders of earlier releases go on
        del settings["forced_acceptance"]
    settings["options"] = [[name, _last(value) if isinstance(value, str) else value] for name, value in grid.options]
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
        if planned is not None:
            for pair in pairs.values():
                planned.check(pair.target, pair.drafter)
            store.add("plan", **facts(planned))
        bar.update(task, total=grid.repetitions * sum(len(b.jobs) for b in filled))
        try:
            done, total = grids.run(filled, grid, store, budget_s=budget, advance=lambda said: bar.update(task, advance=1, description=said))
            if answers:
                from anydraft.bench.answers import write_answers

                write_answers(filled[0], chosen, grid.max_new_tokens, out / "answers")
        finally:
            grids.close(filled)
    report.write(store, out)
    left = f"; the budget ended the run, the same command continues it: {total - done} rounds left" if done < total else ""
    print(f"{done} of {total} rounds{left}. Report: {out}/report.html")


def facts(plan: Plan) -> dict[str, Any]:
    """What the report sets beside the measurement: the best option as it was modelled beforehand."""
    best = plan.best
    return {"method": best.method, "candidate": _last(best.candidate), "lookahead": best.lookahead, "modelled": [best.speedup, best.low, best.high]}


def _last(name: str) -> str:
    """The last part of a path: results name models and suites, not folders."""
    return name.rstrip("/").rpartition("/")[2]
