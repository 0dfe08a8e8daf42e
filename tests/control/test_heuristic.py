"""Heuristic keeps the law and moves by +2 and -1 within its bounds, each request on its own."""

import torch
from lookahead import distances, drafter, exported_state_is_enough
from toys import EXACT, ask, target

from anydraft.control.heuristic import Heuristic
from anydraft.core.noise import Keyed
from anydraft.core.records import Context
from anydraft.rules.match import Match
from anydraft.testing.exact import run


def test_keeps_the_law():
    assert max(distances(lambda: Heuristic(1, 3))) < EXACT


class Watched(Heuristic):
    def __init__(self, *args):
        super().__init__(*args)
        self.course = []

    def keep(self, step):
        state = self._memory.of(step.before, 0)
        before = state.wish
        super().keep(step)
        reach = int(step.draft.live.sum()) if step.draft.nodes else 0
        if reach:
            self.course.append((before, reach, len(step.path[0]), state.wish))


def test_two_more_after_full_acceptance_one_fewer_otherwise():
    control = Watched(2, 5)
    run((target(), drafter(), Match(), control), [ask(60, temperature=0.0)], Keyed())
    assert {taken >= reach for _, reach, taken, _ in control.course} == {True, False}
    for before, reach, taken, after in control.course:
        assert after == (min(5, before + 2) if taken >= reach else max(1, before - 1))


def test_state_moves_with_its_request():
    assert exported_state_is_enough(lambda: Heuristic(2, 5))


def test_a_new_request_starts_afresh():
    control = Heuristic(4, 9)
    control._memory.of(Context.start([ask(4)]), 0).wish = 9
    assert torch.equal(control.size(Context.start([ask(4)])).depth, torch.tensor([4]))
