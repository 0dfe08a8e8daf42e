"""The bandit keeps the law, its regret grows like a logarithm where nothing changes, and it recovers where something does."""

import math
import random

import pytest
from lookahead import TriggerDropped, distances, exported_state_is_enough
from toys import EXACT

from anydraft.control.bandit import Arms, Bandit
from anydraft.core.costs import Costs
from anydraft.core.errors import BadOption

COSTS = Costs(draft=0.1, verify=((1, 1.0), (8, 1.2)))


@pytest.mark.parametrize("algorithm", ["ucb", "exp3"])
@pytest.mark.parametrize("arms", [(0, 1, 2), (0.4, 0.7, 1)])
def test_keeps_the_law(algorithm, arms):
    assert max(distances(lambda: Bandit(arms, algorithm, 3, costs=COSTS))) < EXACT


def test_dropping_the_trigger_token_is_seen():
    assert max(distances(lambda: Bandit((0.6,), "ucb", 3, costs=COSTS), around=TriggerDropped)) > 1e-3


@pytest.mark.parametrize("algorithm", ["ucb", "exp3"])
def test_state_moves_with_its_request(algorithm):
    assert exported_state_is_enough(lambda: Bandit((1, 2, 3), algorithm, 3, costs=COSTS))


def rewards(means, rng):
    return [float(rng.random() < m) for m in means]


def regret(algorithm, means, plays, seed, **options):
    rng, learner, lost, course = random.Random(seed), Arms(len(means), algorithm, **options), 0.0, []
    for turn in range(plays):
        arm = learner.choose(rng.random())
        learner.learn(arm, rewards(means, rng)[arm])
        lost += max(means) - means[arm]
        course.append(lost)
    return course


def mean(values):
    return sum(values) / len(values)


def test_the_regret_of_ucb_grows_slowly():
    means = (0.2, 0.5, 0.8, 0.4)
    courses = [regret("ucb", means, 3000, s, discount=1.0, beta=0.5) for s in range(10)]
    early, late = mean([c[299] for c in courses]), mean([c[-1] for c in courses])
    assert late < 0.1 * 3000 * (max(means) - mean(means)), "a player without memory loses ten times as much"
    assert late - early < 2.5 * early * math.log(10), "ten times the plays, one more logarithm"


def test_the_regret_of_exp3_is_below_its_bound():
    means, plays = (0.2, 0.5, 0.8, 0.4), 3000
    gamma = 0.1
    # Auer et al. 2002, theorem 3.1: (e - 1) gamma G + K ln K / gamma
    bound = (math.e - 1) * gamma * plays * max(means) + len(means) * math.log(len(means)) / gamma
    assert mean([regret("exp3", means, plays, s)[-1] for s in range(10)]) < bound


def test_a_discounted_bandit_recovers_from_a_switch():
    def share_of_best_after_switch(discount):
        found = []
        for seed in range(10):
            rng, learner = random.Random(seed), Arms(3, "ucb", discount)
            played = []
            for turn in range(1200):
                means = (0.9, 0.5, 0.2) if turn < 600 else (0.2, 0.5, 0.9)
                arm = learner.choose(rng.random())
                learner.learn(arm, rewards(means, rng)[arm])
                played.append(arm)
            found.append(mean([a == 2 for a in played[800:]]))
        return mean(found)

    assert share_of_best_after_switch(0.98) > 0.6


def test_the_best_length_is_found_where_it_is_known():
    """Arms are lengths, the acceptance is known: the arm played most is the brute-force optimum."""
    costs, acceptance, lengths = Costs(draft=0.15, verify=((1, 1.0), (9, 1.2))), 0.75, (0, 1, 3, 6, 12)
    rng, learner = random.Random(1), Arms(len(lengths), "ucb", 1.0)

    def tokens(k):
        n = 1
        while n <= k and rng.random() < acceptance:
            n += 1
        return n

    for _ in range(4000):
        arm = learner.choose(rng.random())
        learner.learn(arm, min(1.0, tokens(lengths[arm]) / costs.step(lengths[arm]) / 4))
    exact = [(1 - acceptance ** (k + 1)) / (1 - acceptance) / costs.step(k) for k in lengths]
    played = learner.plays.index(max(learner.plays))
    assert exact[played] >= 0.97 * max(exact)


@pytest.mark.parametrize("options", [{"algorithm": "thompson"}, {"arms": ()}, {"arms": (-1,)}, {"arms": (1.5,)}])
def test_bad_options_are_refused(options):
    with pytest.raises(BadOption):
        Bandit(**options)
