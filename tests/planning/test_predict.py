"""The model equals a simulation, its best lookahead equals brute force, and its intervals hold what they should."""

import json
import random

import pytest

from anydraft.cli import main
from anydraft.core.costs import Costs
from anydraft.core.errors import BadOption
from anydraft.planning.predict import curve_of, from_runs, predict, speedup


def simulated(a, c, g, k, steps=40_000):
    rng, tokens = random.Random(3), 0
    for _ in range(steps):
        tokens += 1
        for _ in range(k):
            if rng.random() >= a:
                break
            tokens += 1
    return tokens / (steps * (k * c + 1 + k * g))


@pytest.mark.parametrize("a, c", [(0.8, 0.05), (0.6, 0.2), (0.3, 0.5)])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_predictions_are_those_of_a_simulation(a, c, k):
    made = predict(a, c, growth=0.02)[k]
    assert made.speedup == pytest.approx(simulated(a, c, 0.02, k), rel=0.02)


def test_published_optima():
    """Independent acceptance, flat verification: the table of best constants in the references."""
    for a, c, k, value in ((0.5, 0.1, 2, 1.46), (0.8, 0.05, 8, 3.09), (0.9, 0.02, 19, 6.37)):
        best = max(predict(a, c, growth=0.0, most=32), key=lambda p: p.speedup)
        assert best.lookahead == k and best.speedup == pytest.approx(value, abs=0.01)


def test_a_dear_drafter_is_predicted_not_to_pay():
    assert max(predict(0.5, 1.0), key=lambda p: p.speedup).lookahead == 0


def test_curves_and_intervals_come_from_the_drafts():
    rng = random.Random(0)

    def draft():
        stood = 0
        while stood < 8 and rng.random() < 0.7:
            stood += 1
        return 8, stood

    costs, runs = Costs(draft=0.1, verify=((1, 1.0), (9, 1.2))), [draft() for _ in range(400)]
    assert curve_of([(3, 3), (3, 0)], 4) == [0.5, 0.5, 0.5, 0.0]
    truth = speedup(costs, [0.7**j for j in range(1, 9)], 4)[1]
    made = from_runs(costs, runs, range(9))[4]
    assert made.low < made.speedup < made.high and made.low * 0.97 < truth < made.high * 1.03


@pytest.mark.parametrize("numbers", [(1.2, 0.1), (-0.1, 0.1), (0.5, -1.0), (float("nan"), 0.1)])
def test_bad_numbers_are_refused(numbers):
    with pytest.raises(BadOption):
        predict(*numbers)


def test_no_drafts_are_refused():
    with pytest.raises(BadOption):
        from_runs(Costs.assumed(), [], [1])


def test_the_command_says_modelled(capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "--acceptance", "0.8", "--draft-cost", "0.05", "--growth", "0", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and made["kind"] == "modelled" and made["best"]["lookahead"] == 8
    with pytest.raises(SystemExit) as end:
        main(["predict", "--acceptance", "2", "--draft-cost", "0.05"])
    assert end.value.code == 2
