"""How long the parts of a step take on this machine: one forward of the target over n tokens, one level of a draft, one token read.

Everything is measured through the parts that a generation uses. A table is a JSON file that names the models by content, so that a table of
other weights is refused and not believed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from anydraft.core.costs import Costs
from anydraft.core.errors import BadModel, BadOption, WrongPair
from anydraft.core.noise import Keyed
from anydraft.core.records import DETERMINED, Context, Draft, Request, Size
from anydraft.core.rollout import determined_chain
from anydraft.core.stopping import Stopping
from anydraft.schedules.sequential import sequential

WIDTHS = (1, 2, 4, 8, 16)
FORMAT = 1


def chain(tokens: torch.Tensor) -> Draft:
    """A determined chain of these ids i64[B, N]; only its shape matters here."""
    place = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Draft(
        tokens=tokens,
        parent=place - 1,
        live=torch.ones_like(tokens, dtype=torch.bool),
        kind=torch.full_like(tokens, DETERMINED),
        index=torch.full_like(tokens, -1),
        levels=tokens.shape[1],
    )


def verification(target: Any, context: Context, widths: Sequence[int] = WIDTHS, repeats: int = 5) -> list[tuple[int, float]]:
    """Seconds of one target forward over n tokens in each row, for each n of `widths`; leaves the target at `context`."""

    def forward(n: int) -> Callable[[], Any]:
        draft = chain(torch.zeros(context.size, n - 1, dtype=torch.int64))
        return lambda: target.score(context, draft)

    seconds = timed([forward(n) for n in widths], repeats)
    rising = 0.0
    points = []
    for n, s in zip(widths, seconds):
        rising = max(rising, s)  # more tokens never take less time: what says so is noise
        points.append((n, rising))
    return points


def drafting(drafter: Any, context: Context, depths: Sequence[int] = (2, 8), repeats: int = 5) -> tuple[float, float]:
    """(seconds before the first level, seconds of one level) of a draft, from two depths."""

    def draft(k: int) -> Callable[[], Any]:
        depth = torch.full((context.size,), k, dtype=torch.int64)
        noise = Keyed().at(context)
        return lambda: drafter.propose(context, Size(depth=depth, nodes=depth), noise)

    short, long = timed([draft(k) for k in depths], repeats)
    level = max(0.0, long - short) / (depths[1] - depths[0])
    return max(0.0, short - depths[0] * level), level


def timed(works: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The lower quartile of each work's seconds, all interleaved, after a warm round: other programs only ever add time.

    An accelerator is waited for whatever the part is made of: a draft on one returns before it is made, and not every drafter tells where it is.
    """
    runs: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for run, work in zip(runs, works):
            start = time.perf_counter()
            work()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if turn:
                run.append(time.perf_counter() - start)
    return [sorted(run)[len(run) // 4] for run in runs]


def costs(
    target: Any, drafter: Any, prompt: torch.Tensor, *, widths: Sequence[int] = WIDTHS, repeats: int = 5, batch: int = 1
) -> Costs:
    """The costs of one pair after a prompt i64[P].

    Args:
        target, drafter: fresh or reset; their rows are used and should be reset afterwards.
        widths: tokens of one target forward.
    """
    room = max([*widths, 9]) + 2
    with torch.inference_mode():
        context = Context.start([Request(prompt=prompt, max_new_tokens=room) for _ in range(batch)], max_length=target.max_length)
        if hasattr(target, "open"):
            target.open(context)
        start = time.perf_counter()
        if hasattr(drafter, "open"):
            drafter.open(context)
        read = (time.perf_counter() - start) / max(1, len(prompt) * batch)
        before, level = drafting(drafter, context, repeats=repeats)
        verify = tuple((n * batch, s) for n, s in verification(target, context, widths, repeats))
    reads = getattr(drafter, "forwards", 0) > 0  # what copies reads nothing worth counting
    return Costs(draft=level, verify=verify, start=before, read=read if reads else 0.0)


class Rote:
    """Drafts the last token again and again: what the rest of a step costs where a draft itself costs nothing."""

    kinds = ("determined",)
    chain = True

    def propose(self, context: Context, size: Size, noise: Any) -> Draft:
        """See `Drafter.propose`."""
        depth = size.clipped(context).depth.tolist()
        return determined_chain([[int(context.row(b)[-1])] * k for b, k in enumerate(depth)])


class _Turns:
    """Constant lookaheads in turn, there and back again, so that a slow moment meets them all."""

    def __init__(self, lookaheads: Sequence[int]):
        self.turns = [*lookaheads, *reversed(lookaheads)]
        self.steps = self.asked = 0

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        self.asked = self.turns[self.steps % len(self.turns)]
        self.steps += 1
        k = torch.full((context.size,), self.asked, dtype=torch.int64)
        return Size(depth=k, nodes=k)


def whole_steps(
    target: Any, drafter: Any, rule: Any, requests: Sequence[Request], lookaheads: Sequence[int] = (0, 1, 3, 7, 16), rounds: int = 8
) -> Costs:
    """Costs whose v(n) holds all that a step does beside drafting, measured in the production loop: rule, processors, commit, learning.

    Args:
        target, drafter, rule: fresh or reset; their rows are used and should be reset afterwards.
        requests: one batch. What they ask for decides which rule and processors are measured; each may have at least
            `rounds` times as many new tokens as twice the lookaheads and their number sum up to.
        lookaheads: 0 first. rounds: how often each is run there and back, after one round that does not count.
    """
    control, seen = _Turns(lookaheads), {k: [] for k in lookaheads}
    start = Context.start(list(requests), max_length=target.max_length)
    stopping = {slot: Stopping(request) for slot, request in enumerate(requests)}

    def refill(context: Context | None) -> Context | None:
        return start if context is None else context if context.size else None

    with torch.inference_mode():
        mark = time.perf_counter()
        for step in sequential(target, drafter, rule, control, Keyed(), refill, stopping):
            now = time.perf_counter()
            if bool(step.draft.live.any()) == (control.asked > 0) and control.steps > len(control.turns) and not any(step.finish):
                rest = now - mark - step.seconds.draft - step.seconds.prefill
                seen[control.asked].append((rest, step.seconds.draft, step.draft.nodes, step.draft.levels))
            mark = now
            if control.steps >= (rounds + 1) * len(control.turns) or any(step.finish):
                break
    steps = {}
    for k, held in seen.items():
        if held:
            rest, draft, nodes, levels = zip(*held)
            steps[k] = (_quartile(rest), _quartile(draft), round(mean(nodes)), mean(levels))
    drafted = [steps[k] for k in sorted(steps) if k]
    if 0 not in steps or len(drafted) < 2 or drafted[-1][3] <= drafted[0][3]:
        raise BadOption("too few steps to measure costs from", got=f"{control.steps} steps", next_step="Give longer requests")
    (_, short, _, few), (_, long, _, many) = drafted[0], drafted[-1]
    level = max(0.0, long - short) / (many - few)
    rising, points = 0.0, {}
    for rest, _, nodes, _ in sorted(steps.values(), key=itemgetter(2)):
        rising = points[(nodes + 1) * len(requests)] = max(rising, rest)  # more tokens never take less time: what says so is noise
    return Costs(draft=level, verify=tuple(points.items()), start=max(0.0, short - few * level))


def _quartile(seconds: Sequence[float]) -> float:
    """The lower one: other programs only ever add time."""
    return sorted(seconds)[len(seconds) // 4]


@dataclass(frozen=True, slots=True)
class Profile:
    """Latency tables of one target and one drafter on one machine.

    `tables` holds {"context", "batch", "costs"} for each measured point; `models` are fingerprints; `acceptance` is the measured chance
    that the j-th draft token stands, if prompts were run.
    """

    models: dict[str, str]
    machine: dict[str, Any]
    tables: list[dict[str, Any]]
    method: str = "draft_model"
    acceptance: list[float] = field(default_factory=list)

    def at(self, context: int = 256, batch: int = 1) -> Costs:
        """The costs measured nearest to this context length and batch."""
        nearest = min(self.tables, key=lambda t: (abs(t["batch"] - batch), abs(t["context"] - context)))
        return Costs.from_dict(nearest["costs"])

    def check(self, models: dict[str, str]) -> None:
        """Raises WrongPair if a model is not the one that was measured."""
        for role, found in models.items():
            if self.models.get(role) not in (None, found):
                raise WrongPair(
                    f"the file was made with another {role}",
                    got=found,
                    expected=self.models[role],
                    next_step="Measure again with the models that you use now",
                )

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Reads what `save` wrote.

        Raises:
            BadModel: no such file, or not a profile.
        """
        held = read_json(path, "profile")
        try:
            made = cls(held["models"], held["machine"], held["tables"], held["method"], held["acceptance"])
            made.at()
        except (KeyError, TypeError, ValueError) as cause:
            raise BadModel(f"{str(path)!r} is no profile", next_step="Write one with `anydraft profile`") from cause
        return made


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """An object of this format from a file.

    Raises:
        BadModel: no such file, no JSON object, or another format.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise BadModel(f"{str(path)!r} cannot be read as a {what}", got=str(cause), next_step=f"Write one with `anydraft {what}`") from cause
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise BadModel(f"{str(path)!r} is no {what} of this version", expected=f'"format": {FORMAT}', next_step=f"Write one with `anydraft {what}`")
    return held
