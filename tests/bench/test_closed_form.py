"""The formulae against a simulation of the process they describe, and against the table of best lookaheads in the literature."""

import numpy as np
import pytest

from anydraft.bench.closed_form import Costs, alpha_of, ceiling, expected_tokens, interpolated, memory_floor_s, speedup, speedup_flat


@pytest.mark.parametrize("alpha, k", [(0.3, 1), (0.6, 4), (0.9, 8), (0.0, 3)])
def test_expected_tokens_is_what_a_simulation_gives(alpha, k):
    coins = np.random.default_rng(0).random((200_000, k)) < alpha
    tokens = 1 + np.cumprod(coins, 1).sum(1)
    assert expected_tokens(alpha, k) == pytest.approx(tokens.mean(), abs=0.02)


def test_certain_acceptance_gives_all_of_them():
    assert expected_tokens(1.0, 7) == 8 and ceiling(1.0) == float("inf") and ceiling(0.75) == 4


@pytest.mark.parametrize("alpha", [0.05, 0.5, 0.95])
def test_alpha_is_found_again(alpha):
    assert alpha_of(expected_tokens(alpha, 6), 6) == pytest.approx(alpha, abs=1e-6)


@pytest.mark.parametrize("alpha, c, best, k", [(0.5, 0.05, 1.63, 3), (0.8, 0.05, 3.09, 8), (0.8, 0.2, 1.87, 4), (0.9, 0.02, 6.37, 19)])
def test_the_best_constant_lookahead(alpha, c, best, k):
    """Figures quoted in surveys of the field, recomputed."""
    found = max(range(1, 40), key=lambda n: speedup_flat(alpha, n, c))
    assert found == k and speedup_flat(alpha, k, c) == pytest.approx(best, abs=0.005)


def test_flat_and_measured_agree_where_costs_are_flat():
    assert speedup(expected_tokens(0.7, 5), 5 * 0.1, 1.0) == pytest.approx(speedup_flat(0.7, 5, 0.1))


def test_costs_are_in_plain_steps():
    costs = Costs(plain_step=0.02, overhead=0.001, draft_forward=0.002, draft_step={4: 0.008}, verify={1: 0.018, 5: 0.026})
    assert costs.c == pytest.approx(0.1) and costs.d(4) == pytest.approx(0.4) and costs.v(3) == pytest.approx(1.1)
    assert interpolated(costs.verify, 9) == pytest.approx(0.034)


def test_the_floor_of_a_known_machine():
    assert memory_floor_s(16e9, 4800) == pytest.approx(1 / 300)  # 8e9 weights of two bytes at 4.8 TB/s: 300 tokens a second
