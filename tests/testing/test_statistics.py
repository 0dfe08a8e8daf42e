"""The test of laws is tested: it is quiet under equal laws as often as it says, loud under others, and its power is the simulated one."""

import numpy as np
import pytest

from anydraft.core.errors import BadOption
from anydraft.testing.statistics import changed, compare, power, room, sample_size


def texts(rng, law, n, window=3):
    """n windows whose tokens are independent draws of one law."""
    return [tuple(row) for row in rng.choice(len(law), (n, window), p=law).tolist()]


def test_the_false_alarm_rate_is_at_most_the_stated_one():
    rng, law, alarms = np.random.default_rng(0), np.array([0.5, 0.3, 0.2]), 0
    for run in range(150):
        a, b = ([texts(rng, law, 40) for _ in range(2)] for _ in range(2))
        alarms += compare(a, b, false_alarm=0.1, seed=run).differs(0.1)
    assert alarms <= 26  # binomial(150, 0.1) exceeds 26 with probability 0.002


def test_p_values_are_spread_out_under_equal_laws():
    """Bonferroni on dependent distances makes them large, never small: the quantiles must lie above the uniform ones."""
    rng, law = np.random.default_rng(3), np.array([0.4, 0.3, 0.3])
    found = sorted(compare([texts(rng, law, 60)], [texts(rng, law, 60)], false_alarm=0.05, seed=s).p_value for s in range(60))
    assert found[6] >= 0.02 and found[30] >= 0.3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_shift_at_any_place_of_the_window_is_seen(place):
    """First token, a token inside the joint window, a later token: each distance has its work."""
    rng, n = np.random.default_rng(place), 600
    a, b = (rng.choice(3, (n, 3), p=[0.5, 0.3, 0.2]) for _ in range(2))
    b[:, place] = rng.choice(3, n, p=[0.3, 0.3, 0.4])
    found = compare([list(map(tuple, a.tolist()))], [list(map(tuple, b.tolist()))])
    assert found.differs(1e-3)


def test_a_dependence_that_leaves_every_marginal_alone_is_seen():
    """The second token repeats the first in one sample and is independent in the other: only a joint law differs."""
    rng, n = np.random.default_rng(0), 400
    first = rng.integers(0, 2, n)
    a, b = np.stack([first, rng.integers(0, 2, n)], 1), np.stack([first, first], 1)
    found = compare([list(map(tuple, a.tolist()))], [list(map(tuple, b.tolist()))])
    assert found.differs(1e-3) and found.p_values["first token"] > 0.5


def test_texts_that_end_early_are_an_outcome_of_their_own():
    a, b = [[(1,)] * 200], [[(1, 2)] * 200]
    assert compare(a, b).differs(1e-3)


def test_permuting_a_sample_changes_nothing():
    rng, law = np.random.default_rng(0), np.array([0.6, 0.4])
    a, b = texts(rng, law, 50), texts(rng, law, 50)
    assert compare([a], [b]).distances == compare([a[::-1]], [b]).distances


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(BadOption, match="do not fit"):
        compare([[(1,)]], [])
    with pytest.raises(BadOption, match="do not fit"):
        compare([[]], [[(1,)]])


def test_the_change_has_the_stated_total_variation_and_is_the_least_favourable():
    law = np.array([0.35, 0.25, 0.2, 0.1, 0.1])
    other = changed(law, 0.1)
    assert other.sum() == pytest.approx(1) and 0.5 * abs(other - law).sum() == pytest.approx(0.1)
    least = ((other - law) ** 2 / law).sum()
    rng = np.random.default_rng(0)
    for _ in range(200):  # random directions of the same total variation are easier to see
        move = rng.normal(size=5)
        move -= move.mean()
        move *= 0.2 / abs(move).sum()
        assert ((move**2) / law).sum() >= least - 1e-9


def test_a_certain_law_has_no_room():
    law = np.array([1.0, 0.0])
    assert room(law) == 0 and (changed(law, 0.2) == law).all()


def test_the_stated_power_is_what_the_whole_test_reaches():
    """End to end: texts are drawn from the changed law, and the production test raises an alarm about as often as promised."""
    rng, law = np.random.default_rng(5), np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    planned = sample_size([law, law], effect=0.25, false_alarm=0.01, wanted=0.9)
    assert planned.power >= 0.9
    assert power([law, law], planned.samples // 2, 0.25, 0.01) < planned.power
    alarms = 0
    for run in range(60):
        a = [texts(rng, law, planned.samples, 1) for _ in range(2)]
        b = [texts(rng, changed(law, 0.25), planned.samples, 1) for _ in range(2)]
        alarms += compare(a, b, false_alarm=0.01, seed=run).differs(0.01)
    assert alarms / 60 >= planned.power - 0.15


def test_a_smaller_effect_needs_more_texts():
    law = np.array([0.4, 0.3, 0.3])
    sizes = [sample_size([law], effect, 0.01).samples for effect in (0.3, 0.15, 0.08)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
