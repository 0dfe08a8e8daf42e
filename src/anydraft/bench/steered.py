"""Forced acceptance: a drafter that does all its work, and whose proposals are then made right or wrong as a coin says.

For measurements of cost only, with models that would never agree by themselves. The drafter's forwards run on the very tokens that are proposed; of its
logits two are exchanged, so that the wanted token is the likeliest. Target, rule and schedule know nothing of it, so the text stays the
target's own. A coin belongs to a request's seed and a position: it is the same for every method and lookahead, and what is right
at one rate is right at every higher one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydraft.build import Parts
from anydraft.core.errors import BadOption
from anydraft.core.noise import hashed
from anydraft.core.records import Context, Request
from anydraft.drafters.draft_model import DraftModel
from anydraft.speculator import Speculator

_OWN = 0x5743  # keeps these coins apart from the decisions of the decoding itself


class Script:
    """What the target says by itself, greedily, behind each prompt that it was asked about beforehand."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, ...], list[int]] = {}

    def learn(self, plain: Speculator, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> None:
        """Decodes the prompts that are not known to that length yet, each alone; options are those of `generate`."""
        for prompt in prompts:
            held = self._texts.get(tuple(prompt))
            if held is None or len(held) < max_new_tokens:
                self._texts[tuple(prompt)] = plain.generate(list(prompt), max_new_tokens=max_new_tokens, **options).token_ids

    def behind(self, prompt: Tensor) -> list[int]:
        """The new ids behind prompt i64[P]; none if it is not known."""
        return self._texts.get(tuple(prompt.tolist()), [])


@dataclasses.dataclass(frozen=True, slots=True)
class Steering:
    """A script and a rate in [0, 1].

    Raises:
        BadOption: no such rate.
    """

    acceptance: float
    script: Script = dataclasses.field(default_factory=Script)

    def __post_init__(self) -> None:
        if not 0 <= self.acceptance <= 1:
            raise BadOption("forced acceptance is not usable", got=self.acceptance, expected="a number from 0 to 1")

    def __str__(self) -> str:
        return f"forced {self.acceptance:g}"

    def right(self, seed: int, position: int) -> bool:
        """Whether the proposal at this position is to be the target's token."""
        return float(hashed(seed, position, _OWN)[0] >> np.uint64(11)) * 2.0**-53 < self.acceptance

    def wanted(self, request: Request, text: Sequence[int], position: int, width: int) -> int:
        """The id to propose at this position of a request whose text is known, -1 where it ends."""
        place = position - len(request.prompt)
        if not 0 <= place < len(text):
            return -1
        return text[place] if self.right(request.seed, position) else (text[place] + 1) % width


class Steered:
    """See `Model`: one that proposes what `Steering` wants. Its forwards are the inner model's."""

    def __init__(self, inner: Any, steering: Steering):
        self.inner, self.steering = inner, steering
        self.vocab_size, self.max_length = inner.vocab_size, inner.max_length
        self._rows: list[tuple[Request, list[int], int]] = []  # request, its text, length of the context
        self._depths: list[list[int]] = []  # of each node that was grown, row by row

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def next(self, context: Context) -> Tensor:
        """See `Model.next`."""
        self._rows = [(r, self.steering.script.behind(r.prompt), n) for r, n in zip(context.requests, context.length.tolist())]
        self._depths = [[] for _ in self._rows]
        return self._steered(self.inner.next(context)[:, None], [[0] for _ in self._rows])[:, 0]

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Model.grow`."""
        for held, above in zip(self._depths, parent.tolist()):
            for node in above:
                held.append(1 + (held[node] if node >= 0 else 0))
        return self._steered(self.inner.grow(tokens, parent), [held[-tokens.shape[1] :] for held in self._depths])

    def _steered(self, logits: Tensor, depths: list[list[int]]) -> Tensor:
        """f[B, M, U] with two logits of each node exchanged; its depth says which position it proposes a token for."""
        width = logits.shape[-1]
        ids = [[self.steering.wanted(r, text, n + d, width) for d in row] for (r, text, n), row in zip(self._rows, depths)]
        if all(token < 0 for row in ids for token in row):
            return logits
        best, asked = logits.argmax(-1), torch.tensor(ids, device=logits.device)
        both = torch.stack([best, torch.where(asked < 0, best, asked)], -1)
        return logits.scatter(-1, both, logits.gather(-1, both).flip(-1))


class SteeredSpeculator(Speculator):
    """A Speculator whose drafter is steered, on workers too. Args: steering, then as `Speculator`."""

    def __init__(self, steering: Steering, *args: Any, **options: Any):
        self._steering = steering
        super().__init__(*args, **options)
        rewire(self, lambda targets, drafter: (targets, partial(build_steered, drafter, steering)))

    def parts(self, sampled: bool = False) -> Parts:
        """See `Speculator.parts`."""
        if sampled:
            raise BadOption("forced acceptance is for greedy decoding", got="a temperature above 0", next_step="Use temperature 0")
        made = super().parts(sampled)
        return dataclasses.replace(made, drafter=steered(made.drafter, self._steering))


def steered(drafter: Any, steering: Steering) -> Any:
    """The drafter, steered from now on; nobody else may hold it.

    Raises:
        BadOption: not the method `draft_model` with a chain: other methods draft no target ids from a model, or several at a place.
    """
    if not isinstance(drafter, DraftModel) or not drafter.chain:
        kind = type(drafter).__name__
        raise BadOption("forced acceptance needs a drafter that draws a chain of the target's own ids", got=kind, next_step="Use method draft_model")
    drafter.model = Steered(drafter.model, steering)
    return drafter


def build_steered(build: Callable[[], Any], steering: Steering) -> Any:
    """A worker's drafter, steered. What the script has learnt by the time it travels is all that it will know there."""
    return steered(build(), steering)


def rewire(speculator: Any, change: Callable[[list[Any], Any], tuple[list[Any], Any]]) -> None:
    """Lets `change` exchange the builders of a parallel schedule's workers: (targets, drafter) -> the same; nothing to do for the sequential one."""
    deployment: Any = speculator.schedule
    if hasattr(deployment, "builders"):
        plain = deployment.builders
        deployment.builders = lambda: change(*plain())
