"""Rows are coupled only by being in one batch: the law of one row, given what the others do, is that of plain decoding."""

import functools
from collections import defaultdict

import pytest
import torch
from toys import CONTROLS, EXACT, RULES, Trees, ask, plain_law, target, total_variation

from anydraft.core.noise import Keyed, hashed
from anydraft.core.records import Context
from anydraft.core.stopping import Stopping
from anydraft.drafters.draft_model import DraftModel
from anydraft.drafters.prompt_lookup import PromptLookup
from anydraft.drafters.token_recycling import TokenRecycling
from anydraft.schedules.sequential import sequential
from anydraft.testing.exact import Enumerating, Script

pytestmark = pytest.mark.proof


class Fated(Script):
    """A neighbour's script, fixed in advance whatever it is asked: the last option, the first, or one by a hash of the fate."""

    def __init__(self, fate: int):
        super().__init__()
        self.fate = fate

    def choose(self, probs, key):
        options = [i for i, p in enumerate(probs) if p > 0]
        self.taken += 1
        return options[-1 if self.fate == 0 else 0 if self.fate == 1 else int(hashed(self.fate, self.taken)[0] % len(options))]


def run_crowd(parts, requests, noise, at_once):
    """Generated ids of each request; at most `at_once` run together, the next takes the place of whoever finishes."""
    drafter_target, drafter, rule, control = parts
    stopping = {slot: Stopping(request) for slot, request in enumerate(requests)}
    waiting = list(range(len(requests)))

    def refill(context):
        held = context.size if context is not None else 0
        new, waiting[:] = waiting[: at_once - held], waiting[at_once - held :]
        if new:
            fresh = Context.start([requests[s] for s in new], new)
            context = fresh if not held else context.join(fresh)
        return context if context is not None and context.size else None

    steps = list(sequential(drafter_target, drafter, rule, control, noise, refill, stopping))
    return [tuple(stopping[slot].ids) for slot in range(len(requests))], steps


def law_beside(make, request, neighbours, place, fate, at_once):
    """The law of `request`, admitted as number `place` among neighbours whose every decision is fixed."""
    law, todo = defaultdict(float), [[]]
    while todo:
        script = Script(choices=list(todo.pop()))
        requests = [*neighbours[:place], request, *neighbours[place:]]
        scripts = [script if slot == place else Fated(fate + slot) for slot in range(len(requests))]
        outputs, _ = run_crowd(make(), requests, Enumerating(scripts), at_once)
        law[outputs[place]] += script.weight
        todo += script.untried
    return dict(law)


NEIGHBOURS = [
    ask(1, prompt=(1,)),
    ask(4, prompt=(1, 0, 0, 1, 0), temperature=0.5, repetition_penalty=1.4),
    ask(3, prompt=(0, 0), temperature=0.0, eos=frozenset({1})),
]
PARTS = {
    "speculative_sampling": lambda: (target(3, 2), DraftModel(target(2, 2), 2), RULES["speculative_sampling"](), CONTROLS["nosy"]()),
    "block_verification": lambda: (target(3, 2), DraftModel(target(2, 2), 2), RULES["block_verification"](), CONTROLS["heuristic"]()),
    "confidence": lambda: (target(3, 2), DraftModel(target(2, 2), 2), RULES["block_verification"](), CONTROLS["confidence"]()),
    "a tree": lambda: (target(3, 2), DraftModel(target(2, 2), 2, (2, 1)), RULES["recursive_rejection"](), CONTROLS["stubbornly nosy"]()),
    "a mixed tree": lambda: (
        target(3, 2),
        Trees([-1, -1, 0], ["distinct", "determined", "independent"], vocab=2),
        RULES["recursive_rejection"](),
        CONTROLS["heuristic"](),
    ),
    "prompt_lookup": lambda: (target(3, 2), PromptLookup(), RULES["match"](), CONTROLS["heuristic"]()),
    "token_recycling": lambda: (target(3, 2), TokenRecycling(2, k=2), RULES["recursive_rejection"](), CONTROLS["fixed"]()),
}  # fmt: skip


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("place, fate, at_once", [(0, 0, 4), (3, 7, 4), (2, 1, 2), (3, 11, 2)])
def test_the_law_of_a_row_beside_fixed_neighbours(parts, place, fate, at_once):
    """Neighbours with other options, that leave early, and that the row takes the place of (`at_once` below 4)."""
    request = ask(3, prompt=(0, 1), repetition_penalty=1.2)
    law = law_beside(PARTS[parts], request, NEIGHBOURS, place, fate, at_once)
    assert abs(sum(law.values()) - 1) < EXACT
    assert total_variation(law, plain_law(functools.partial(target, 3, 2), request)) < EXACT


@pytest.mark.parametrize("parts", PARTS)
def test_the_tokens_of_a_seed_do_not_depend_on_the_batch(parts):
    """With production noise: alone, in a crowd, in another place, admitted late: the same tokens."""
    requests = [
        ask(9, prompt=(0, 1, i % 2), seed=40 + i, temperature=0.4 + 0.2 * i, eos=frozenset({1}) if i == 3 else frozenset())
        for i in range(5)
    ]
    alone = [run_crowd(PARTS[parts](), [r], Keyed(), 1)[0][0] for r in requests]
    for order, at_once in (([0, 1, 2, 3, 4], 5), ([4, 2, 0, 3, 1], 5), ([1, 3, 0, 4, 2], 2), ([3, 4, 2, 1, 0], 3)):
        outputs, _ = run_crowd(PARTS[parts](), [requests[i] for i in order], Keyed(), at_once)
        assert outputs == [alone[i] for i in order]


def test_a_row_that_joins_really_runs_beside_older_ones():
    """The tests above would prove nothing if nobody joined while others run."""
    _, steps = run_crowd(PARTS["speculative_sampling"](), [ask(5), ask(1), ask(5), ask(2)], Keyed(), 2)
    assert any(len(set(step.before.step.tolist())) > 1 for step in steps)
    assert max(step.before.size for step in steps) == 2 and torch.equal(steps[-1].after.committed, steps[-1].after.length)
