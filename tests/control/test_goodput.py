"""Goodput keeps the law, equals brute force where everything is known, reaches 0 under load, and finds its way back."""

import random
from dataclasses import replace

import pytest
import torch
from lookahead import drafter, exported_state_is_enough
from toys import EXACT, ask, target

from anydraft.control.goodput import Goodput, best_lookahead
from anydraft.core.costs import Costs
from anydraft.core.noise import Keyed
from anydraft.core.records import Context
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import exact_law, plain_law, run, total_variation

COSTS = Costs(draft=0.08, verify=((1, 1.0), (8, 1.1), (64, 3.0)))


@pytest.mark.parametrize("acceptance", [0.3, 0.95])
def test_keeps_the_law(acceptance):
    """Run by run: the lookahead depends on the other requests, and a row of an enumeration is a request."""
    make = lambda: (target(), drafter(), SpeculativeSampling(), Goodput(2, costs=COSTS, acceptance=acceptance, memory=0.5))  # noqa: E731
    law = exact_law(make, ask(3), batch=1)
    assert len(law) == 27 and total_variation(law, plain_law(target, ask(3))) < EXACT


def test_state_moves_with_its_request():
    assert exported_state_is_enough(lambda: Goodput(3, costs=COSTS))


def simulated(acceptance, k, costs, steps=20_000, seed=0):
    """Tokens per second of the constant lookahead k, by simulation."""
    rng, tokens = random.Random(seed), 0
    for _ in range(steps):
        for a in acceptance:
            tokens += 1
            for _ in range(k):
                if rng.random() >= a:
                    break
                tokens += 1
    return tokens / (steps * costs.step(k, len(acceptance)))


@pytest.mark.parametrize("acceptance", [[0.9], [0.6], [0.3], [0.9, 0.5], [0.8] * 4])
def test_the_choice_is_that_of_a_simulation(acceptance):
    rates = [simulated(acceptance, k, COSTS) for k in range(9)]
    chosen = best_lookahead(acceptance, COSTS, 8)
    assert rates[chosen] >= 0.99 * max(rates)


def test_load_turns_speculation_off():
    chosen = [best_lookahead([0.7] * batch, COSTS, 8) for batch in (1, 4, 16, 64, 256)]
    assert chosen[0] > 0 and chosen[-1] == 0 and chosen == sorted(chosen, reverse=True)


def test_it_explores_while_off_and_learns():
    control, request = Goodput(4, costs=Costs(draft=0.9, verify=((1, 1.0), (9, 3.0))), explore=5), ask(40)
    depths = []

    class Watching:
        @staticmethod
        def size(context: Context):
            size = control.size(context)
            depths.append(int(size.depth[0]))
            return size

        keep = staticmethod(control.keep)

    run((target(), drafter(), SpeculativeSampling(), Watching()), [request], Keyed())
    assert set(depths) == {0, 1} and depths[:5] == [0, 0, 0, 0, 1]


def test_the_average_follows_what_was_judged():
    control, request = Goodput(4, costs=COSTS, memory=0.5, acceptance=0.5), ask(30)
    run((target(), drafter(), SpeculativeSampling(), Forever(control)), [request], Keyed())
    assert 0 < control.export(request)["acceptance"] < 1


class Forever:
    def __init__(self, inner):
        self.inner, self.size = inner, inner.size

    def keep(self, step):
        self.inner.keep(replace(step, finish=(None,) * len(step.finish)))
        assert torch.isfinite(step.scores.logits).all()
