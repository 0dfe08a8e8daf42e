"""What the tests of the controls share: the law of a control over drafts of a toy model, and the mistake that a control invites."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from toys import V, ask, distance, target

from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Draft, Level, Size
from anydraft.drafters.draft_model import DraftModel
from anydraft.engine.table import TableModel
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import run


class TriggerDropped:
    """A drafter that takes back the very token at which the control said stop: the bug that biases the output."""

    def __init__(self, inner: Any):
        self.inner, self.kinds, self.chain = inner, inner.kinds, inner.chain
        self.dropped = 0

    def propose(self, context: Context, size: Size, noise) -> Draft:
        said: dict[int, int] = {}

        def go_on(context: Context, level: Level):
            yes = size.go_on(context, level)
            for b, (went, live) in enumerate(zip(yes.tolist(), level.live.tolist())):
                if live and not went:
                    said.setdefault(b, level.depth - 1)
            return yes

        draft = self.inner.propose(context, replace(size, go_on=go_on), noise)
        live = draft.live.clone()
        for b, node in said.items():
            live[b, node:] = False
        self.dropped += len(said)
        return replace(draft, live=live)


class Hiding(TableModel):
    """A table whose rows come with a hidden state: the logits themselves."""

    def next(self, context):
        logits = super().next(context)
        self.hidden = logits.float()
        return logits

    def grow(self, tokens, parent):
        logits = super().grow(tokens, parent)
        self.hidden = logits[:, -1].float()
        return logits


def drafter(seed: int = 2, cls: type[TableModel] = TableModel) -> DraftModel:
    """A drafting table that is often sure and often wrong, so that doubt matters."""
    return DraftModel(cls(V, seed=seed, spread=1.5), V)


def distances(
    control: Callable[[], Any], *, tokens: int = 4, cls: type[TableModel] = TableModel, around=lambda d: d, **options
) -> list[float]:
    """Total variation from plain decoding under two rules; every run of the loop is visited, hundreds of rows in a batch."""
    return [
        distance(lambda rule=rule: (target(), around(drafter(cls=cls)), rule(), control()), ask(tokens, **options))
        for rule in (SpeculativeSampling, BlockVerification)
    ]


def exported_state_is_enough(control: Callable[[], Any]) -> bool:
    """Whether a fresh control that adopts what another exported decides as that one would."""
    first, request = control(), ask(6, seed=3)
    run((target(), drafter(), SpeculativeSampling(), _NeverForget(first)), [request], Keyed())
    held = json.loads(json.dumps(first.export(request)))  # plain types only: it may travel
    second = control()
    second.adopt(request, held)
    same = held is not None and second.export(request) == held
    here, there = Context.start([request], [0]), Context.start([request], [7])
    return same and torch.equal(first.size(here).depth, second.size(there).depth)


class _NeverForget:
    """A control whose requests never finish, so that their state can be looked at afterwards."""

    def __init__(self, inner: Any):
        self.inner = inner
        self.size = inner.size

    def open(self, context: Context) -> None:
        if hasattr(self.inner, "open"):
            self.inner.open(context)

    def keep(self, step) -> None:
        self.inner.keep(replace(step, finish=(None,) * len(step.finish)))


__all__ = ["Hiding", "TriggerDropped", "distances", "drafter", "exported_state_is_enough"]
