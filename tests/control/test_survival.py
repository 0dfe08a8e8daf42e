"""Survival keeps the law, its value function is the optimum of its model, and it stops where drafting no longer pays."""

import itertools

import numpy as np
import pytest
import torch
from lookahead import TriggerDropped, distances, drafter, exported_state_is_enough
from toys import EXACT, ask, target

from anydraft.control.survival import Survival
from anydraft.core.costs import Costs
from anydraft.core.lookahead import threshold
from anydraft.core.noise import Keyed
from anydraft.core.records import Context
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import run

DEAR = Costs(draft=0.35, verify=((1, 1.0), (5, 1.2)))


@pytest.mark.parametrize("full", [True, False])
def test_keeps_the_law(full):
    assert max(distances(lambda: Survival(3, costs=DEAR, full=full))) < EXACT


def test_dropping_the_trigger_token_is_seen():
    made = []
    seen = distances(lambda: Survival(3, costs=DEAR), around=lambda d: made.append(TriggerDropped(d)) or made[-1])
    assert sum(m.dropped for m in made) > 0 and max(seen) > 1e-3


def test_state_moves_with_its_request():
    assert exported_state_is_enough(lambda: Survival(3, costs=DEAR))


def best_by_brute_force(standing, price, rates, shares, horizon):
    """The value of the best policy, by recursion over every future."""
    if horizon == 0:
        return 0.0
    more = sum(w * (standing * a + best_by_brute_force(standing * a, price, rates, shares, horizon - 1)) for a, w in zip(rates, shares))
    return max(0.0, more - price)


@pytest.mark.parametrize("price", [0.05, 0.15, 0.3, 0.6])
def test_the_threshold_separates_what_is_worth_drafting(price):
    rates, shares = np.array([0.2, 0.7, 0.98]), np.array([0.3, 0.3, 0.4])
    found = threshold(price, rates, shares, horizon=5)
    for standing in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0):
        if abs(np.log(standing / found)) > 0.25:  # the grid's spacing
            assert (best_by_brute_force(standing, price, rates, shares, 5) > 0) == (standing > found), standing


def test_the_full_form_drafts_further_than_one_step():
    rates, shares = np.array([0.3, 0.99]), np.array([0.5, 0.5])
    assert threshold(0.3, rates, shares) < threshold(0.3, rates, shares, full=False)
    assert threshold(5.0, rates, shares) > 1


def test_a_dear_drafter_is_asked_for_less():
    def drafted(cost):
        control, lengths = Survival(6, costs=Costs(draft=cost, verify=((1, 1.0), (9, 1.3)))), []

        class Counting:
            size = staticmethod(control.size)

            @staticmethod
            def keep(step):
                lengths.append(int(step.draft.live.sum()))
                control.keep(step)

        run((target(), drafter(), SpeculativeSampling(), Counting()), [ask(40, seed=s) for s in range(6)], Keyed())
        return sum(lengths) / len(lengths)

    assert drafted(0.01) > drafted(0.6)


def test_rows_decide_for_themselves():
    """A row's draft is the same alone and beside others."""
    requests = [ask(12, prompt=p, seed=s) for s, p in enumerate(itertools.product((0, 1), repeat=2))]
    together = run((target(), drafter(), SpeculativeSampling(), Survival(4, costs=DEAR)), requests, Keyed())
    alone = [
        run(
            (target(), drafter(), SpeculativeSampling(), Survival(4, costs=DEAR)), [ask(12, prompt=r.prompt.tolist(), seed=r.seed)], Keyed()
        )[0]
        for r in requests
    ]
    assert together == alone


def test_a_new_request_in_an_old_slot_starts_afresh():
    control = Survival(4)
    first, second = ask(4), ask(4)
    state = control._memory.of(Context.start([first]), 0)
    assert control._memory.of(Context.start([first]), 0) is state
    assert control._memory.of(Context.start([second]), 0) is not state
    assert torch.equal(control.size(Context.start([second])).depth, torch.tensor([4]))
