"""`anydraft verify --all`: every method on every pair at three temperatures, and planted mistakes that must fail; one table, resumable.

A line of verified.jsonl is one finished cell, so a run that is killed loses the cell it was in and no other. What the cells were run with stands in
its first line; cells that were run with other source code say so in the table.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anydraft.core.errors import AnydraftError, BadOption

if TYPE_CHECKING:
    from anydraft.bench.pairs import Pair
    from anydraft.bench.store import Store
    from anydraft.testing.verify import Plan, Report

TEMPERATURES = (0.0, 0.7, 1.0)
TOP_P = 0.9
BUNDLED = (("target", "draft-bpe"), ("target", "draft-spm"))
PLANTS = ("residual_skipped", "bonus_row_off", "accepted_unseen", "argmax_as_sampled", "unprocessed_proposal")
"""Five mistakes that the default size sees, each planted at temperature 1. Smaller ones (match_then_redraw) need a smaller --effect."""
HOSTS = ("draft_model", "tli")  # in the first of these that the pairs have

Place = tuple[str, str | None, str | None, str | None]
"""Target, drafter, dtype, device."""

BEGIN, END = "<!-- verified: begin -->", "<!-- verified: end -->"
CALIBRATION_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of `verify`."""

    target: str
    drafter: str
    method: str
    temperature: float
    plant: str | None = None

    @property
    def name(self) -> str:
        """How progress and the store call it."""
        planted = f" with {self.plant} planted" if self.plant else ""
        return f"{_last(self.target)} + {_last(self.drafter)}, {self.method}{planted}, temperature {self.temperature:g}"


def cells(pairs: Sequence[Pair]) -> list[Cell]:
    """Every cell: methods without a model, which no drafter changes, on the first pair only."""
    from anydraft.bench.grid import fitting
    from anydraft.build import parameters
    from anydraft.core import discover

    made, methods = [], []
    for n, pair in enumerate(pairs):
        found = [m for m in fitting(["all"], pair) if n == 0 or "model" in parameters(discover.load("drafters", m))]
        found = ["none", *found, "auto"] if n == 0 else [*found, "auto"]
        methods += [(pair, m) for m in found]
        made += [Cell(*_names(pair), m, t) for m in found for t in TEMPERATURES]
    hosts = [(pair, method) for name in HOSTS for pair, method in methods if method == name]
    return made + [Cell(*_names(pair), method, 1.0, plant) for plant in PLANTS for pair, method in hosts[:1]]


def verify_all(
    places: Sequence[Place], plan: Plan, prompts: str | None, out: Path, page: Path | None, examine: Callable[..., Report], jobs: int = 1
) -> bool:
    """Runs what is not there yet, writes verified.md, and says whether everything came out as it must.

    Args:
        places: target, drafter, dtype and device of each pair. examine: as `cli.verify.examine`. page: checked before.
        jobs: processes that run cells side by side.
    Raises:
        BadOption: the folder holds another run.
    """
    from anydraft.bench import hardware
    from anydraft.bench.pairs import Pair
    from anydraft.bench.store import Store
    from anydraft.cli import _terminal

    _terminal.quiet()
    pairs = [Pair.load(target, drafter, dtype=dtype, device=device) for target, drafter, dtype, device in places]
    wanted, where = cells(pairs), {_names(pair): place for pair, place in zip(pairs, places)}
    del pairs  # every cell loads its own, so that nothing carries over from one to the next
    out.mkdir(parents=True, exist_ok=True)
    settings = {"pairs": [list(map(_last, names)) for names in where], "plan": asdict(plan), "top_p": TOP_P, "prompts": _last(prompts or "bundled")}
    store = Store(out / "verified.jsonl", settings)
    if not store.of("machine"):
        store.add("machine", **hardware.facts(places[0][3] or "cpu"))
    done = {line["cell"] for line in store.of("verified")}
    left = [(cell, where[cell.target, cell.drafter]) for cell in wanted if cell.name not in done]
    for cell, result, seconds in carried_out(left, plan, prompts, out, examine, jobs):
        store.add("verified", cell=cell.name, **asdict(cell), **result, seconds=seconds, source=source())
        print(f"    {seconds:.0f} s  {result['verdict']}", file=sys.stderr, flush=True)
        _write(store, out, None)
    _write(store, out, page)
    print(f"{headline(store.of('verified'))} Table: {out}/verified.md")
    return all(map(as_it_must, store.of("verified")))


def _write(store: Store, out: Path, page: Path | None) -> None:
    text = markdown(store, store.of("verified"))
    (out / "verified.md").write_text(text, encoding="utf-8")
    if page is not None:
        whole = page.read_text(encoding="utf-8")
        page.write_text(whole[: whole.index(BEGIN) + len(BEGIN)] + f"\n\n{text}\n" + whole[whole.index(END) :], encoding="utf-8")


Result = dict[str, Any]
"""A cell's outcome ("passed", "failed" or "refused"), its verdict, and the report."""


def carried_out(
    left: Sequence[tuple[Cell, Place]], plan: Plan, prompts: str | None, out: Path, examine: Any, jobs: int
) -> Iterator[tuple[Cell, Result, float]]:
    """Yields each cell with its result and its seconds, as they end."""
    if jobs == 1:
        for n, (cell, place) in enumerate(left, 1):
            print(f"[{n}/{len(left)}] {cell.name}", file=sys.stderr, flush=True)
            yield cell, *_timed(cell, place, plan, prompts, out, examine, None)
        return
    for cell, place in left:
        with contextlib.suppress(AnydraftError):  # the cell itself will say so
            _statistics(cell, place, prompts, out)  # so that no two processes write the same file
    threads = max(1, torch.get_num_threads() // jobs)
    fresh = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=fresh) as pool:
        waiting = {pool.submit(_timed, cell, place, plan, prompts, out, examine, threads): cell for cell, place in left}
        try:
            for n, ended in enumerate(as_completed(waiting), 1):
                print(f"[{n}/{len(left)}] {waiting[ended].name}", file=sys.stderr, flush=True)
                yield waiting[ended], *ended.result()
        except BrokenProcessPool as cause:
            step = "Take fewer --jobs, or a smaller --batch-size; the same command continues with what is not done yet"
            raise BadOption("a process that ran a cell was ended from outside, most likely for want of memory", got=f"--jobs {jobs}", next_step=step) from cause
        finally:
            pool.shutdown(cancel_futures=True)  # whatever ends this ends after the cells that are under way, and not after all


def _timed(cell: Cell, place: Place, plan: Plan, prompts: str | None, out: Path, examine: Any, threads: int | None) -> tuple[Result, float]:
    from anydraft.cli import _terminal

    if threads is not None:
        torch.set_num_threads(threads)
        _terminal.quiet()
    begun = time.monotonic()
    return run(cell, place, plan, prompts, out, examine), time.monotonic() - begun


def run(cell: Cell, place: Place, plan: Plan, prompts: str | None, out: Path, examine: Any) -> Result:
    """One cell."""
    options = {"top_k": 0, "top_p": TOP_P if cell.temperature else 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "temperature": cell.temperature}
    try:
        parts = {"method": cell.method, "num_assistant_tokens": "auto", "rule": "auto", "control": "auto", **_statistics(cell, place, prompts, out)}
        report = examine(place, parts, options, plan, cell.plant, prompts)
    except AnydraftError as error:
        return {"outcome": "refused", "verdict": f"{type(error).__name__}: {error}", "report": None}
    return {"outcome": "passed" if report.passed else "failed", "verdict": report.verdict, "report": report.as_dict()}


def _statistics(cell: Cell, place: Place, prompts: str | None, out: Path) -> dict[str, str]:
    """The file of the target's mean law, for methods that take one; measured once."""
    from anydraft.build import parameters
    from anydraft.cli.calibrate import calibrate
    from anydraft.core import discover

    if cell.method == "auto" or "statistics" not in parameters(discover.load("drafters", cell.method)):
        return {}
    path = out / f"{_last(cell.target)}-mean-law.safetensors"
    if not path.exists():
        unfinished = out / f"unfinished-{path.name}"
        texts = [Path(prompts)] if prompts and Path(prompts).is_file() else None
        print("    measuring the target's mean law", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(io.StringIO()):  # its table, and advice about a file that is about to get another name
            calibrate("rdk", unfinished, None if place[0] == "target" else place[0], texts, CALIBRATION_TOKENS, 1.0, 0, 8, None, None)
        unfinished.rename(path)
    return {"statistics": str(path)}


def as_it_must(line: dict[str, Any]) -> bool:
    """Methods pass or are refused with a reason; planted mistakes fail."""
    return line["outcome"] == "failed" if line["plant"] else line["outcome"] in ("passed", "refused")


def source() -> str:
    """A word that changes with any line of this package."""
    told = hashlib.blake2b(digest_size=4)
    root = Path(__file__).resolve().parent.parent
    for path in sorted(root.rglob("*.py")):
        told.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return told.hexdigest()


def check_page(page: Path) -> None:
    """Raises BadOption for a page without a place for the table."""
    if not page.is_file() or not {BEGIN, END} <= set(page.read_text(encoding="utf-8").splitlines()):
        raise BadOption(f"{page.name} has no place for the table", expected=f"a Markdown file with the lines {BEGIN} and {END}")


# -- the table -------------------------------------------------------------------------------------------------------


def headline(lines: Sequence[dict[str, Any]]) -> str:
    """What came out, in a sentence."""
    own, planted = [line for line in lines if not line["plant"]], [line for line in lines if line["plant"]]
    refused = sum(line["outcome"] == "refused" for line in own)
    passed, seen = sum(line["outcome"] == "passed" for line in own), sum(line["outcome"] == "failed" for line in planted)
    slowest = max((line["seconds"] for line in lines), default=0.0)
    return (
        f"{passed} of {len(own) - refused} cells passed{f', {refused} were refused with a reason' if refused else ''}; "
        f"{seen} of {len(planted)} planted mistakes failed, as they must; the slowest cell took {slowest:.0f} s."
    )


def markdown(store: Store, lines: Sequence[dict[str, Any]]) -> str:
    """The whole table: methods, planted mistakes, what was refused, and what the figures mean."""
    machine = store.of("machine")[0]
    plan = store.settings["plan"]
    sources = sorted({line["source"] for line in lines})
    text = [headline(lines), ""]
    text += [f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, device {machine['device']}, torch {machine['torch']}, "
             f"transformers {machine['transformers']}, top-p {store.settings['top_p']:g}; source {', '.join(sources)}"
             f"{' (cells of different sources: run again into another folder)' if len(sources) > 1 else ''}.", ""]  # fmt: skip
    text += ["| pair | method | temperature | verdict | greedy | p, speculative : plain | p, plain : plain | texts | drafted / accepted | controls | s |",
             "|---|---|---:|---|---:|---:|---:|---:|---:|---|---:|"]  # fmt: skip
    for line in lines:
        if not line["plant"] and line["outcome"] != "refused":
            text.append("| " + " | ".join(_row(line)) + " |")
    planted = [line for line in lines if line["plant"]]
    text += ["", "| planted mistake | in | temperature | verdict | seen by | s |", "|---|---|---:|---|---|---:|"] if planted else []
    for line in planted:
        seen = ", ".join(check["name"] for check in _checks(line).values() if not check["passed"]) or "nothing"
        verdict = "fails, as it must" if line["outcome"] == "failed" else f"**{line['outcome']}**"
        text.append(f"| {line['plant']} | {line['method']} | {line['temperature']:g} | {verdict} | {seen} | {line['seconds']:.0f} |")
    refused = {(line["method"], _pair(line)): line["verdict"] for line in lines if line["outcome"] == "refused" and not line["plant"]}
    text += ["", *(f"* {method} on {pair}: refused. {said}" for (method, pair), said in refused.items())]
    bad = [line for line in lines if not as_it_must(line)]
    text += [f"* **{line['cell']}**: {line['verdict']}" for line in bad]
    text += ["", "greedy: prompts whose ids are those of transformers' `generate`, ties of the target's own arithmetic in brackets. p: of the permutation "
             f"test, an alarm at {plan['false_alarm']:g} or less. texts: per sample. controls: a planted mistake (for none, a wrong temperature) that "
             "the greedy and the sampled check must catch. none is compared with transformers' own sampling, everything else with our plain decoding. "
             f"With {len(lines)} cells, one false alarm somewhere has a probability of about {_somewhere(lines, plan['false_alarm']):.0%}.", ""]  # fmt: skip
    return "\n".join(text)


def _row(line: dict[str, Any]) -> list[str]:
    checks = _checks(line)
    greedy, sampled = checks["greedy"]["details"], checks.get("sampling", {}).get("details")
    ties = len(greedy["divergences"])
    prompts = greedy["prompts"]
    shown = [_pair(line), line["method"], f"{line['temperature']:g}", "passes" if line["outcome"] == "passed" else "**fails**",
             f"{prompts - ties}/{prompts}" + (f" ({ties})" if ties and checks["greedy"]["passed"] else "")]  # fmt: skip
    if sampled is None:
        counts = f"{greedy['drafted']} / {greedy['accepted']}"
        shown += ["–", "–", "–", counts]
    else:
        shown += [f"{sampled[name]['p_value']:.2g}" for name in ("speculative", "null")]
        shown += [str(sampled["texts"]), f"{sampled['drafted']} / {sampled['accepted']}"]
    controls = [check for name, check in checks.items() if name.endswith("control")]
    shown.append("caught" if all(check["passed"] for check in controls) else "**missed**")
    return [*shown, f"{line['seconds']:.0f}"]


def _checks(line: dict[str, Any]) -> dict[str, Any]:
    return {check["name"]: check for check in line["report"]["checks"]} if line["report"] else {}


def _somewhere(lines: Sequence[dict[str, Any]], false_alarm: float) -> float:
    tests = sum(2 for line in lines if not line["plant"] and "sampling" in _checks(line))  # speculative against plain, and plain against plain
    return 1 - (1 - false_alarm) ** tests


def _pair(line: dict[str, Any]) -> str:
    return f"{_last(line['target'])} + {_last(line['drafter'])}"


def _names(pair: Pair) -> tuple[str, str]:
    return pair.target_name, pair.drafter_name or "none"


def _last(name: str) -> str:
    """The last part of a path: tables name models, not folders."""
    return name.rstrip("/").rpartition("/")[2]
