"""The grid: targets x drafters x methods x lookaheads x temperatures x batch sizes, run in interleaved rounds that can be resumed.

A block is one (target, drafter, temperature, batch size); all its contenders meet in every round. Rounds of all blocks take turns, so
that a run that is stopped early has something of everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from anydraft.bench import peers
from anydraft.bench.costs import step_seconds
from anydraft.bench.measure import Contender, Job, measure_round, warm_up
from anydraft.bench.ours import Ours
from anydraft.bench.pairs import Pair, Settings
from anydraft.bench.steered import Script, Steering
from anydraft.bench.store import Store
from anydraft.bench.suites import Item
from anydraft.bench.tied import tie_audit
from anydraft.build import parameters
from anydraft.core import discover
from anydraft.core.errors import AnydraftError
from anydraft.speculator import Speculator

BASELINE = "anydraft none"
CALIBRATION = "calibration: "
"""Jobs whose name starts so measure costs for the closed forms; their prompts are not among those that speed is reported on."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What to run. Unless it is `full`, the first temperature and batch size get every lookahead and the others the middle one, peers
    get their own default and the middle one, and methods without a model, which no drafter changes, run beside the first drafter only.
    """

    targets: tuple[str, ...] = ("target",)
    drafters: tuple[str, ...] = ("draft-bpe", "draft-spm")
    methods: tuple[str, ...] = ("auto",)  # "all": every method that fits the drafter
    lookaheads: tuple[int, ...] = (2, 4, 8)
    temperatures: tuple[float, ...] = (0.0,)
    batch_sizes: tuple[int, ...] = (1,)
    peers: tuple[str, ...] = ()
    repetitions: int = 1
    max_new_tokens: int = 64
    top_p: float = 1.0
    full: bool = False
    dtype: str | None = None
    device: str | None = None
    schedules: tuple[str, ...] = ("sequential",)  # several meet in every round
    target_replicas: int = 1  # of the parallel schedules, like what follows
    executor: str = "threads"
    ray_address: str | None = None
    options: tuple[tuple[str, Any], ...] = ()  # by name, for the methods that take them
    forced_acceptance: float | None = None  # of drafters that are models, see steered.py; greedy only
    planned: tuple[tuple[str, Any], ...] = ()  # a plan's settings: one contender in place of methods and lookaheads


@dataclass(slots=True)
class Block:
    """One target and drafter at one temperature and batch size, with everybody who takes part."""

    name: str
    target: str
    drafter: str
    temperature: float
    batch_size: int
    lookaheads: tuple[int, ...]
    contenders: list[Contender] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # who cannot take part, and why
    jobs: list[Job] = field(default_factory=list)
    step_s: dict[int, float] = field(default_factory=dict)  # seconds of one target forward by tokens per row
    script: Script = field(default_factory=Script)  # what the target says, for drafters that are steered


def blocks(grid: Grid) -> list[Block]:
    """Every block, empty: nothing is loaded."""
    made = []
    for target in grid.targets:
        for drafter in grid.drafters:
            for batch in grid.batch_sizes:
                for temperature in grid.temperatures:
                    first = grid.full or (temperature == grid.temperatures[0] and batch == grid.batch_sizes[0])
                    ks = grid.lookaheads if first else grid.lookaheads[len(grid.lookaheads) // 2 :][:1]
                    name = f"{_short(target)} + {_short(drafter)}, temperature {temperature:g}, batch {batch}"
                    made.append(Block(name, target, drafter, temperature, batch, ks))
    return made


def fill(block: Block, grid: Grid, items: Sequence[Item], calibration: Sequence[Item], pairs: dict[tuple[str, str], Pair]) -> None:
    """Loads what the block needs and makes its contenders and jobs. Loaded pairs are shared between blocks."""
    key = (block.target, block.drafter)
    if key not in pairs:
        pairs[key] = Pair.load(block.target, None if block.drafter == "none" else block.drafter, dtype=grid.dtype, device=grid.device)
    pair = pairs[key]
    middle = block.lookaheads[len(block.lookaheads) // 2 :][:1]
    settings = Settings(block.lookaheads if grid.full else middle, block.temperature, grid.top_p, block.batch_size, forced_acceptance=grid.forced_acceptance)
    steering = None if grid.forced_acceptance is None else Steering(grid.forced_acceptance, block.script)
    block.contenders = [Ours(pair.target, pair.tokenizer, "none")]
    for name, method, k, more in ours(block, grid, pair):
        with_model = method == "auto" or _drafts_with_a_model(method)
        drafter = (pair.drafter, pair.drafter_tokenizer) if with_model else (None, None)
        steered = steering if with_model else None
        try:
            block.contenders.append(Ours(pair.target, pair.tokenizer, method, k, *drafter, label=f"anydraft {name}", steering=steered, **more))
        except AnydraftError as error:
            block.skipped[f"anydraft {name.replace(f' k={k}', '')}"] = str(error)  # the reason is the same at every lookahead
    for system in grid.peers:
        found, reason = peers.contenders(system, pair, settings)
        block.contenders += found
        if reason:
            block.skipped[system] = reason
        elif steering is not None and pair.drafter is not None:
            block.skipped[f"{system} assisted"] = f"its drafter cannot be steered ({steering}), so it would be another comparison"
    longest = plain_of(block).target.max_length or 1 << 30

    def job(name: str, group: Sequence[Item], seed: int) -> Job:
        ids = [list(pair.tokenizer(item.prompt).input_ids)[-(longest - grid.max_new_tokens - 40) :] for item in group]
        return Job(name, ids, grid.max_new_tokens, block.temperature, grid.top_p, seed)

    groups = [list(items[n : n + block.batch_size]) for n in range(0, len(items), block.batch_size)]
    block.jobs = [job(f"{group[0].task}: {group[0].id}", group, 1000 * n) for n, group in enumerate(groups)]
    held = [calibration[i % len(calibration)] for i in range(block.batch_size)]
    block.jobs.insert(1, job(f"{CALIBRATION}{held[0].id}", held, 99))


def ours(block: Block, grid: Grid, pair: Pair) -> Iterator[tuple[str, str, int | str, dict[str, Any]]]:
    """(name, method, lookahead, further keywords of `Speculator`) of every contender of ours but the baseline."""
    if grid.planned:
        settings = dict(grid.planned)
        method, k = settings.pop("method"), settings.pop("num_assistant_tokens", "auto")
        methods: list[tuple[str, Sequence[int | str]]] = [(method, (k,))] if method != "none" else []
    else:
        settings = {}
        modelless = grid.full or block.drafter == grid.drafters[0]
        fit = [m for m in fitting(grid.methods, pair) if modelless or m == "auto" or _drafts_with_a_model(m)]
        methods = [(m, ("auto",) if m == "auto" else block.lookaheads) for m in fit]
    for method, ks in methods:
        known = parameters(discover.load("drafters", method)) if method != "auto" else {}
        own = {**settings, **{name: value for name, value in grid.options if name in known}}
        for k in ks:
            for schedule in grid.schedules:
                name = method if k == "auto" else f"{method} k={k}"
                if schedule == "sequential":
                    yield name, method, k, own
                    continue
                parallel = {"schedule": schedule, "target_replicas": grid.target_replicas, "executor": grid.executor}
                if grid.ray_address is not None:
                    parallel["ray_address"] = grid.ray_address
                yield f"{name}, {schedule} x{grid.target_replicas} {grid.executor}", method, k, {**own, **parallel}


def fitting(wanted: Sequence[str], pair: Pair) -> list[str]:
    """The methods to try on a pair: those that were named, or for "all" every drafter that needs nothing the pair lacks.

    Methods for equal vocabularies are left out where they differ, and those for different ones where they are equal: both would run,
    one wrongly refused and the other pointlessly.
    """
    if "all" not in wanted:
        return list(wanted)
    chosen = []
    for method in discover.methods("drafters"):
        needs = parameters(discover.load("drafters", method.name))
        if method.name == "none" or "drafters" in needs:  # the baseline, and what combines others
            continue
        if "model" in needs and (pair.drafter is None or ("aligner" in needs) == pair.same_vocabulary):
            continue
        chosen.append(method.name)
    return chosen


def _drafts_with_a_model(method: str) -> bool:
    return "model" in parameters(discover.load("drafters", method))


def run(
    filled: Sequence[Block], grid: Grid, store: Store, *, budget_s: float | None = None, advance: Callable[[str], None] = lambda said: None
) -> tuple[int, int]:
    """Measures every round that the store does not have; returns (rounds done, rounds in all).

    A round that a kill interrupted is completed together with a new run of the baselines, so that ratios stay paired within one session.
    """
    begun, done, total = time.monotonic(), 0, 0
    plan = [(b, job, turn) for turn in range(grid.repetitions) for n in range(max(len(b.jobs) for b in filled)) for b in filled for job in b.jobs[n : n + 1]]
    warmed: set[str] = set()
    for b, job, repetition in plan:
        total += 1
        finished = store.finished(b.name)
        todo = [c for c in b.contenders if (c.name, job.name, repetition) not in finished]
        if todo and budget_s is not None and time.monotonic() - begun > budget_s:
            continue
        if todo:
            if b.name not in warmed:
                warmed.add(b.name)
                prepare(b, store)
            taking_part = [c for c in b.contenders if c in todo or c.name in (BASELINE, "transformers plain")]
            for measured in measure_round(taking_part, job, repetition, store.session, reference=BASELINE, turn=total, audit=tie_audit(partial(plain_of, b))):
                store.add_measurement(b.name, measured)
        done += 1
        advance(b.name)
    return done, total


def close(filled: Sequence[Block]) -> None:
    """Ends the workers of parallel schedules."""
    for block in filled:
        for contender in block.contenders:
            if isinstance(contender, Ours):
                contender.speculator.close()


def prepare(block: Block, store: Store) -> None:
    """Warms everybody up, on the first job and on the longest, and measures what a target forward of n tokens costs; costs and errors are stored."""
    if any(getattr(c, "forced", None) for c in block.contenders):
        for job in block.jobs:
            block.script.learn(plain_of(block), job.prompts, job.max_new_tokens)
    longest = max(block.jobs, key=lambda job: max(map(len, job.prompts)))
    errors = warm_up(block.contenders, block.jobs[0]) | warm_up(block.contenders, longest)
    if not any(line["block"] == block.name for line in store.of("costs")):
        target = plain_of(block).target
        table = step_seconds(target, block.jobs[0].prompts, sorted({1, *(k + 1 for k in block.lookaheads), 2 * max(block.lookaheads) + 1}))
        store.add("costs", block=block.name, step_s={str(n): s for n, s in table.items()}, errors=errors)


def plain_of(block: Block) -> Speculator:
    """The baseline's speculator; it always comes first."""
    first = block.contenders[0]
    assert isinstance(first, Ours)
    return first.speculator


def _short(name: str) -> str:
    """The last part of a path: reports name models, not folders."""
    return name.rstrip("/").rpartition("/")[2]


def facts(block: Block) -> dict[str, Any]:
    """What a summary needs to know about a block without its models."""
    kept = ("name", "system", "method", "k", "schedule", "forced")
    members = [{name: getattr(c, name, None) for name in kept} for c in block.contenders]
    model = plain_of(block).model
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "block": block.name, "target": _short(block.target), "drafter": _short(block.drafter), "temperature": block.temperature,
        "batch_size": block.batch_size, "contenders": members, "skipped": block.skipped, "weight_bytes": size,
        "jobs": [job.name for job in block.jobs],
    }  # fmt: skip
