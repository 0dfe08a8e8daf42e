"""Noise: a pure function of its key, alike in every batch, uniform, and without two decisions from one number."""

import itertools
import math

import numpy as np
import pytest
import torch

from anydraft.core.law import Dense
from anydraft.core.noise import PURPOSES, Keyed, KeyedNoise, hashed
from anydraft.core.records import Context, Request


def noise(seed, step, position):
    return KeyedNoise(*(np.asarray(v, dtype=np.int64) for v in (seed, step, position)))


def test_a_row_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    seed, step, position = rng.integers(0, 2**62, 40), rng.integers(0, 99, 40), rng.integers(1, 9999, 40)
    crowd = noise(seed, step, position)
    law = Dense(torch.rand(40, 1, 11))
    everyone = torch.ones(40, dtype=torch.bool)
    tokens = crowd.categorical(law, 0, everyone, "draft", 3)
    coins = crowd.bernoulli(torch.full((40,), 0.5), everyone, "accept", 3)
    for b in range(40):  # one row is computed by another path than forty
        alone = noise(seed[b : b + 1], step[b : b + 1], position[b : b + 1])
        assert alone.uniform("draft", 3)[0] == crowd.uniform("draft", 3)[b]
        assert int(alone.categorical(Dense(law.probs[b : b + 1]), 0, everyone[:1], "draft", 3)) == int(tokens[b])
        assert bool(alone.bernoulli(torch.tensor([0.5]), everyone[:1], "accept", 3)) == bool(coins[b])


def test_few_rows_and_many_are_hashed_alike():
    values = np.array([0, 1, -1, 7, 2**62, -(2**62), 2**63 - 1, -(2**63), 12, 13, 14, 15], dtype=np.int64)
    many = hashed(values, 5, values[::-1].copy())
    assert [int(hashed(int(a), 5, int(b))[0]) for a, b in zip(values, values[::-1])] == many.tolist()
    assert len(set(many.tolist())) == len(values)


def test_every_part_of_the_key_matters():
    base = {"seed": 3, "step": 4, "position": 5, "purpose": "accept", "number": 6}

    def value(**changed):
        k = base | changed
        return float(noise([k["seed"]], [k["step"]], [k["position"]]).uniform(k["purpose"], k["number"])[0])

    changed = [value(), value(seed=4), value(step=5), value(position=6), value(number=7), *(value(purpose=p) for p in PURPOSES if p != "accept")]
    assert len(set(changed)) == len(changed)
    swapped = [value(seed=a, step=b, position=c, number=d) for a, b, c, d in itertools.permutations((1, 2, 3, 4))]
    assert len(set(swapped)) == 24, "parts are not interchangeable"
    assert len(set(PURPOSES.values())) == len(PURPOSES)


def test_neighbouring_keys_never_meet():
    """Every decision of 20 seeds x 10 steps x 20 positions x 2 purposes x 10 numbers: 80,000 keys, no value twice.

    By chance two of 80,000 53-bit values are equal with probability 4e-7.
    """
    grid = np.array(list(itertools.product(range(20), range(10), range(20))))
    source = noise(*grid.T)
    values = np.concatenate([source.uniform(p, n) for p in ("accept", "draft") for n in range(10)])
    assert len(np.unique(values)) == values.size == 80_000


@pytest.mark.parametrize("varied", ["seed", "step", "position", "number"])
def test_uniforms_are_uniform_and_uncorrelated(varied):
    """Chi-square in 64 cells and the correlation of neighbours, each at 5 standard deviations: one false alarm in 2e6."""
    n = 40_000
    run, still = np.arange(n), np.full(n, 3)
    if varied == "number":
        values = np.concatenate([noise([3] * 10, range(10), [3] * 10).uniform("accept", i) for i in range(n // 10)])
    else:
        values = noise(*(run if varied == name else still for name in ("seed", "step", "position"))).uniform("accept", 3)
    counts = np.histogram(values, 64, (0, 1))[0]
    chi2 = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / math.sqrt(n)
    assert 0 <= values.min() and values.max() < 1


def test_the_path_key_is_seed_and_position_alone():
    """The third draw behind 10 ids is the first behind 12, in whatever step."""
    assert noise([7], [0], [10]).uniform("target", 2, path=True) == noise([7], [5], [12]).uniform("target", 0, path=True)
    assert noise([7], [0], [10]).uniform("target", 2) != noise([7], [5], [12]).uniform("target", 0)


def test_what_is_not_asked_is_not_decided():
    some = torch.tensor([True, False, True])
    source = noise([1, 2, 3], [0] * 3, [4] * 3)
    assert source.categorical(Dense(torch.ones(3, 1, 5)), 0, some, "draft", 0)[1] == -1
    assert source.bernoulli(torch.ones(3), some, "accept", 0).tolist() == [True, False, True]


def test_certain_and_impossible_coins():
    source, everyone = noise(range(5000), [0] * 5000, [1] * 5000), torch.ones(5000, dtype=torch.bool)
    assert source.bernoulli(torch.ones(5000), everyone, "accept", 0).all()
    assert source.bernoulli(torch.full((5000,), 7.0), everyone, "accept", 0).all(), "a ratio above 1 is certain"
    assert not source.bernoulli(torch.zeros(5000), everyone, "accept", 0).any()
    share = source.bernoulli(torch.full((5000,), 0.3), everyone, "accept", 0).double().mean()
    assert abs(share - 0.3) < 5 * math.sqrt(0.21 / 5000)


def test_the_source_reads_the_context():
    requests = [Request(prompt=torch.tensor([1, 2]), max_new_tokens=3, seed=s) for s in (5, 6)]
    bound = Keyed().at(Context.start(requests))
    assert (bound.seed.tolist(), bound.step.tolist(), bound.position.tolist()) == ([5, 6], [0, 0], [2, 2])
