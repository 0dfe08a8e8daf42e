"""What a drafter saw and what became of it: the examples from which lookahead controls are trained.

Every trace comes from the production loop under a long constant lookahead, so training sees what decoding sees.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Level, Request, Size, Step
from anydraft.core.stopping import Stopping
from anydraft.schedules.sequential import sequential


@dataclass(frozen=True, slots=True)
class Run:
    """One draft of one request: what was seen at each level, and how many tokens stood."""

    prompt: int  # which prompt it comes from
    seen: Tensor  # f[L, F] one row per level that a control was asked about
    stood: int
    drafted: int

    def examples(self) -> tuple[Tensor, Tensor]:
        """(f[M, F], f[M]): rows whose next token was judged, and whether it stood. Drafting on after level i is right iff token i + 1 stands.

        Levels behind the first refusal were never judged; at the last one seen, the next token is that of the next level.
        """
        known = min(len(self.seen), self.drafted - 1, self.stood + 1)
        label = (torch.arange(known) + 1 < self.stood).float()
        return self.seen[:known], label


class Recorder:
    """A constant lookahead that notes what `look` sees at each level."""

    def __init__(self, k: int, look: Callable[[Level], Tensor]):
        self.k, self.look = k, look
        self.rows: list[Tensor] = []
        self.runs: list[Run] = []
        self.prompt = 0

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        self.rows = []
        k = torch.full((context.size,), self.k, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=self._go_on)

    def _go_on(self, context: Context, level: Level) -> Tensor:
        self.rows.append(self.look(level).detach().float().cpu()[0].clone())
        return torch.ones_like(level.live)

    def keep(self, step: Step) -> None:
        """Notes the run; a draft that the request's end cut short is judged as far as it goes."""
        if step.draft.nodes and self.rows:
            self.runs.append(Run(self.prompt, torch.stack(self.rows), len(step.path[0]), int(step.draft.live[0].sum())))


def record(speculator: Any, prompts: Sequence[str], look: Callable[[Level], Tensor], *, k: int, tokens: int, temperature: float) -> list[Run]:
    """The runs of all prompts, one request at a time, under lookahead k."""
    recorder = Recorder(k, look)
    for number, prompt in enumerate(prompts):
        recorder.prompt = number
        requests = speculator.requests(prompt, max_new_tokens=tokens, temperature=temperature, seed=number)
        for _ in steps(speculator, requests, recorder):
            pass
    return recorder.runs


def steps(speculator: Any, requests: Sequence[Request], control: Any = None) -> Iterator[Step]:
    """The production loop, with another control if one is given."""
    speculator.reset()
    parts = speculator.parts(any(r.temperature > 0 for r in requests))
    start = Context.start(list(requests), max_length=speculator.target.max_length)
    stopping = {slot: Stopping(request) for slot, request in enumerate(requests)}

    def refill(context: Context | None) -> Context | None:
        return start if context is None else context if context.size else None

    with torch.inference_mode():
        yield from sequential(speculator.target, parts.drafter, parts.rule, control or parts.control, Keyed(), refill, stopping)


def fit(net: torch.nn.Module, inputs: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], *, epochs: int, rate: float) -> float:
    """Trains on everything at once, since there is little; leaves the best epoch on every fifth example's loss, and returns that loss."""
    held = torch.arange(len(inputs)) % 5 == 0
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    best, kept = float("inf"), copy.deepcopy(net.state_dict())
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(net(inputs[~held]), labels[~held]).backward()
        optimizer.step()
        with torch.no_grad():
            now = float(loss(net(inputs[held]), labels[held]))
        if now < best:
            best, kept = now, copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    return best


def seconds_per_token(speculator: Any, prompts: Sequence[str], controls: dict[float, Any], *, tokens: int, temperature: float) -> dict[float, float]:
    """Measured draft and verification seconds per token of each control, all controls on each prompt in turn."""
    spent = dict.fromkeys(controls, 0.0)
    emitted = dict.fromkeys(controls, 0)
    for number, prompt in enumerate(prompts):
        order = list(controls) if number % 2 else list(controls)[::-1]
        for name in order:
            requests = speculator.requests(prompt, max_new_tokens=tokens, temperature=temperature, seed=number)
            for step in steps(speculator, requests, controls[name]):
                spent[name] += step.seconds.draft + step.seconds.verify
                emitted[name] += int(step.emitted[0])
    return {name: spent[name] / max(1, emitted[name]) for name in controls}
