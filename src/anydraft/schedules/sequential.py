"""Sequential: draft, verify, commit, one after the other; the reference schedule.

Source:   Leviathan et al. 2023, arXiv:2211.17192, Alg. 1; Chen et al. 2023, arXiv:2302.01318
Keeps:    law              what the rule keeps
Judges:   any              whatever the rule judges
Noise:    any              whatever the rule declares
Cost:     one target forward and one draft per step
Differs:  B >= 1 ragged rows; rows leave as they finish and others take their place
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from anydraft.core.commit import commit
from anydraft.core.records import Context, Draft, Seconds, Size, Step
from anydraft.core.roles import Control, Drafter, NoiseSource, Rule, Target
from anydraft.core.stopping import Stopping

Refill = Callable[[Context | None], Context | None]


def sequential(
    target: Target, drafter: Drafter, rule: Rule, control: Control, noise: NoiseSource, refill: Refill, stopping: dict[int, Stopping]
) -> Iterator[Step]:
    """Yields every step until no request is open.

    Args:
        refill: takes the open rows (None at first) and returns them with newly admitted ones, None when all is done.
        stopping: by slot, one per admitted request.
    """
    parts = (target, drafter, control)
    unread: set[int] = set()  # slots of requests that the drafter has not met: it reads a prompt when it is first wanted, and perhaps never
    mark, around = time.perf_counter(), 0.0  # around: what was done between the last step's end and this one's begin
    context = refill(None)
    while context is not None:
        waited, mark = _since(mark)
        seconds, forwards = Seconds(other=around + waited), _forwards(target, drafter)
        if bool((context.step == 0).any()):
            unread |= set(context.slot[context.step == 0].tolist())
            for part in (target, control):
                _tell(part, "open", context)
            seconds.prefill, mark = _since(mark)
        size = control.size(context)
        if wanted := bool(size.nodes.any()):
            size = _allowed(size, context, target)
            wanted = bool(size.nodes.any())
        waited, mark = _since(mark)
        seconds.other += waited
        if wanted and unread:
            _tell(drafter, "open", _met(context, unread))
            unread.clear()
            waited, mark = _since(mark)
            seconds.prefill += waited
        step_noise = noise.at(context)
        draft = drafter.propose(context, size, step_noise) if wanted else Draft.empty(context.size)
        seconds.draft, mark = _since(mark)
        scores = target.score(context, draft)
        seconds.verify, mark = _since(mark)
        judged = draft.on(scores.logits.device)  # what was drafted without a model is on the host
        verdict = rule.verify(judged, scores, step_noise)
        after, emitted, finish, path = commit(context, judged, scores, verdict, [stopping[slot] for slot in context.slot.tolist()])
        spent = {name: now - before for (name, now), before in zip(_forwards(target, drafter).items(), forwards.values())}
        waited, mark = _since(mark)
        seconds.other += waited
        step = Step(
            before=context, after=after, draft=draft, scores=scores, verdict=verdict, path=path, emitted=emitted, finish=finish, seconds=seconds,
            forwards=spent,
        )  # fmt: skip
        for part in parts:
            _tell(part, "keep", step)
        around, mark = _since(mark)
        yield step
        mark = time.perf_counter()  # what the caller does with a step is not ours
        context = refill(after.keep_rows([b for b, end in enumerate(finish) if end is None]))


def _met(context: Context, unread: set[int]) -> Context:
    """The context for a drafter's `open`, in which exactly the requests that are new to it stand at step 0."""
    new = torch.tensor([slot in unread for slot in context.slot.tolist()])
    return dataclasses.replace(context, step=torch.where(new, 0, context.step.clamp_min(1)))


def _allowed(size: Size, context: Context, target: Any) -> Size:
    """The control's wish, within the requests' limits; rows whose processors keep state do not speculate."""
    plain = target.plain(context) if hasattr(target, "plain") else None
    if plain is not None:
        size = dataclasses.replace(size, depth=size.depth.masked_fill(plain, 0))
    return size.clipped(context)


def _tell(part: object, verb: str, what: object) -> None:
    hear = getattr(part, verb, None)
    if hear is not None:
        hear(what)


def _since(mark: float) -> tuple[float, float]:
    now = time.perf_counter()
    return now - mark, now


def _forwards(target: Any, drafter: Any) -> dict[str, int]:
    return {"target": getattr(target, "forwards", 0), "draft": getattr(drafter, "forwards", 0)}
