"""The clock believes what was said until it has seen enough, then corrects each part by its own steps, whatever a single slow moment says."""

from types import SimpleNamespace

import pytest

from anydraft.core.clock import EVERY, FIRST, PROBE, SOON, Clock
from anydraft.core.costs import Costs
from anydraft.core.records import Seconds

SAID = Costs(draft=0.1, verify=((1, 1.0), (5, 1.2)), start=0.05, read=0.01)


def step(levels=0, *, size=1, draft=0.0, rest=1.0, nodes=None):
    seconds = Seconds(draft=draft, verify=0.8 * rest, other=0.2 * rest)
    return SimpleNamespace(before=SimpleNamespace(size=size), seconds=seconds, draft=SimpleNamespace(levels=levels, nodes=levels if nodes is None else nodes))


def seen(*steps, size=1):
    clock = Clock()
    for one in steps:
        clock.keep(one, ["d"] * size)
    return clock


def test_nothing_seen_changes_nothing():
    assert Clock().costs(1, "d", SAID) is SAID
    assert seen(*[step()] * 2).costs(1, "d", SAID) is SAID


def test_each_part_is_corrected_by_its_own_steps():
    clock = seen(*[step(rest=2.0)] * 5, *[step(4, draft=4 * 0.45, rest=3.6)] * 5)
    found = clock.costs(1, "d", SAID)
    assert found.step(0) == pytest.approx(2.0)
    assert found.v(5) == pytest.approx(3.6)
    assert found.start + 4 * found.draft == pytest.approx(4 * 0.45)
    assert found.draft / found.start == pytest.approx(SAID.draft / SAID.start)


def test_a_slow_moment_changes_nothing():
    calm = seen(*[step()] * 9, *[step(4, draft=0.45, rest=1.2)] * 9)
    stormy = seen(*[step()] * 5, *[step(rest=100.0)] * 3, *[step(4, draft=0.45, rest=1.2)] * 6, *[step(4, draft=30.0, rest=90.0)] * 3)
    assert stormy.costs(1, "d", SAID).step(4) == pytest.approx(calm.costs(1, "d", SAID).step(4))


def test_what_only_copies_costs_what_it_took():
    said = Costs(draft=0.0, verify=((1, 1.0), (5, 1.2)))
    found = seen(*[step()] * 4, *[step(4, draft=0.3, rest=1.2)] * 4).costs(1, "d", said)
    assert found.start == pytest.approx(0.3) and found.draft == 0.0


def test_one_factor_stands_in_for_those_that_are_not_known():
    plain = seen(*[step(rest=0.5)] * 4).costs(1, "d", SAID)
    assert plain.step(4) == pytest.approx(0.5 * SAID.step(4))
    drafts = seen(*[step(4, draft=0.225, rest=0.6)] * 4).costs(1, "d", SAID)
    assert drafts.step(0) == pytest.approx(0.5 * SAID.step(0))


def test_batches_and_drafters_are_told_apart():
    clock = seen(*[step(size=2, rest=4.0)] * 5, size=2)
    assert clock.costs(1, "d", SAID) is SAID
    assert clock.costs(2, "d", SAID).step(0, 2) == pytest.approx(4.0)
    clock.keep(step(4, size=2, draft=9.0, rest=9.0), ["d", "e"])
    assert "e" not in clock._batches[2].drafts


def test_costs_of_a_wide_batch_stay_those_of_its_rows():
    said = Costs(draft=0.1, verify=((4, 1.0), (8, 1.1), (20, 1.6)))
    found = seen(*[step(size=4, rest=2.0)] * 4, *[step(4, size=4, draft=0.8, rest=3.2)] * 4, size=4).costs(4, "d", said)
    assert found.step(0, 4) == pytest.approx(2.0) and found.v(5, 4) == pytest.approx(3.2) and found.v(2, 4) == pytest.approx(2.2)


def probed(clock, steps, known):
    found = []
    for n in range(steps):
        probe = clock.wants_plain(1, known=known)
        found += [n] * probe
        clock.keep(step() if probe else step(4, draft=0.4), ["d"])
    return found


def test_plain_probes_come_first_where_nothing_is_known_and_seldom_later():
    wanted = [*range(FIRST), *(FIRST + EVERY + n for n in range(PROBE)), *(FIRST + PROBE + 2 * EVERY + n for n in range(PROBE))]
    assert probed(Clock(), 3 * EVERY, known=False) == wanted
    assert probed(Clock(), SOON + 5, known=True) == [SOON + n for n in range(PROBE)]


def test_the_first_plain_step_behind_a_draft_does_not_count():
    clock = seen(*[step(rest=1.0)] * 4, step(4, draft=0.4), *[step(rest=9.0), step(rest=1.0), step(4, draft=0.4)] * 8)
    assert clock.costs(1, "d", SAID).step(0) == pytest.approx(1.0)


def test_a_new_text_is_probed_soon_and_its_steps_take_the_place_of_the_last_ones():
    clock = seen(*[step()] * 12)
    clock.renew()
    assert probed(clock, SOON + 1, known=True) == [SOON]
    for _ in range(3):
        clock.keep(step(rest=2.0), ["d"])
    assert clock.costs(1, "d", SAID).step(0) == pytest.approx(2.0, rel=0.3) and len(clock._batches[1].plain) <= 4
