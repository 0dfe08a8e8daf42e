"""Exact output laws: every possible run of the unmodified production path, enumerated.

Every row of a batch follows its own script of decisions. Where a script ends, the row takes the first option and the others go on the to-do
list; a run's weight is the product of what it decided. So one batched call visits many runs, ragged batches are exercised on the way,
and a decision that is keyed twice is caught.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anydraft.core.law import Law
from anydraft.core.records import Context, Request
from anydraft.core.roles import Control, Drafter, NoiseSource, Rule
from anydraft.core.stopping import Stopping
from anydraft.schedules.sequential import sequential

Output = tuple[int, ...]
Parts = tuple[object, Drafter, Rule, Control]


class KeyedTwice(AssertionError):
    """A decision was asked for twice under one key: in production both would come from the same number."""


@dataclass
class Script:
    """One run: the choices to replay, then whatever was chosen first, with its weight and the options left untried."""

    choices: list[int] = field(default_factory=list)
    taken: int = 0
    weight: float = 1.0
    untried: list[list[int]] = field(default_factory=list)
    keys: set[tuple] = field(default_factory=set)

    def choose(self, probs: list[float], key: tuple) -> int:
        """The option to take, of a decision with these probabilities."""
        if key in self.keys:
            raise KeyedTwice(f"decision {key} was taken twice in one run; give it a purpose or a number of its own")
        self.keys.add(key)
        options = [i for i, p in enumerate(probs) if p > 0]
        if len(options) == 1:
            self.weight *= probs[options[0]]
            return options[0]
        if self.taken == len(self.choices):
            self.untried += [[*self.choices, i] for i in options[1:]]
            self.choices.append(options[0])
        choice = self.choices[self.taken]
        self.taken += 1
        self.weight *= probs[choice]
        return choice


class Enumerating:
    """A source of noise in which the row at slot s follows `scripts[s]`."""

    def __init__(self, scripts: Sequence[Script]):
        self.scripts = scripts

    def at(self, context: Context) -> _EnumeratingNoise:
        """Noise of one step."""
        return _EnumeratingNoise([self.scripts[s] for s in context.slot.tolist()], context)


class _EnumeratingNoise:
    def __init__(self, scripts: list[Script], context: Context):
        self.scripts = scripts
        self.stamps = list(zip(context.step.tolist(), context.length.tolist()))

    def _key(self, b: int, purpose: str, number: int, path: bool) -> tuple:
        step, position = self.stamps[b]
        return ("path", position + number, purpose) if path else (step, position, purpose, number)

    def bernoulli(self, prob: Tensor, asked: Tensor, purpose: str, number: int) -> Tensor:
        """See `Noise.bernoulli`."""
        decided = [False] * len(self.scripts)
        for b, (ask, p) in enumerate(zip(asked.tolist(), prob.tolist())):
            if ask:
                yes = min(1.0, max(0.0, p))
                decided[b] = self.scripts[b].choose([1 - yes, yes], self._key(b, purpose, number, False)) == 1
        return torch.tensor(decided)

    def categorical(
        self, law: Law, index: Tensor | int, asked: Tensor, purpose: str, number: int, *, path: bool = False, empty: bool = False
    ) -> Tensor:
        """See `Noise.categorical`."""
        drawn = [-1] * len(self.scripts)
        if bool(asked.any()):
            for b, (ask, row) in enumerate(zip(asked.tolist(), law.rows(index).double())):
                if ask:
                    lacking = max(0.0, 1.0 - float(row.sum())) if empty else 0.0
                    options = (row if empty else row / row.sum()).tolist() + ([lacking] if lacking > 1e-12 else [])
                    choice = self.scripts[b].choose(options, self._key(b, purpose, number, path))
                    drawn[b] = choice if choice < len(row) else -1
        return torch.tensor(drawn)


def exact_law(make: Callable[[], Parts], request: Request, *, batch: int = 512) -> dict[Output, float]:
    """The exact law of a request's generated ids, through the production loop, rule, processors and stopping.

    Args:
        make: fresh (target, drafter, rule, control), called once per batch.
        request: what is asked; each run is one row with this request.
        batch: most rows at a time.
    """
    law: dict[Output, float] = defaultdict(float)
    todo: list[list[int]] = [[]]
    while todo:
        scripts = [Script(choices=list(choices)) for choices in todo[:batch]]
        todo = todo[batch:]
        for script, output in zip(scripts, run(make(), [_copy(request) for _ in scripts], Enumerating(scripts))):
            law[output] += script.weight
            todo += script.untried
    return dict(law)


def run(parts: Parts, requests: Sequence[Request], noise: NoiseSource) -> list[Output]:
    """Generated ids of each request, all in one batch."""
    target, drafter, rule, control = parts
    stopping = {slot: Stopping(request) for slot, request in enumerate(requests)}
    start = Context.start(tuple(requests), max_length=getattr(target, "max_length", None))

    def refill(context: Context | None) -> Context | None:
        return start if context is None else context if context.size else None

    for _ in sequential(target, drafter, rule, control, noise, refill, stopping):  # type: ignore[arg-type]
        pass
    return [tuple(stopping[slot].ids) for slot in range(len(requests))]


def _copy(request: Request) -> Request:
    return Request(**{name: getattr(request, name) for name in Request.__dataclass_fields__})


def plain_law(target_of: Callable[[], object], request: Request) -> dict[Output, float]:
    """The exact law of plain decoding: one draw per token and nothing else."""
    from anydraft.control.fixed import Fixed
    from anydraft.drafters.none import NoDraft
    from anydraft.rules.match import Match

    return exact_law(lambda: (target_of(), NoDraft(), Match(), Fixed(0)), request)


def total_variation(a: dict[Output, float], b: dict[Output, float]) -> float:
    """Half the absolute difference of two laws."""
    return 0.5 * sum(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in a.keys() | b.keys())
