"""Block verification: the published example, the closed form of its accepted length, and that it never accepts less than token by token."""

import itertools

import pytest
from toys import EXACT, Trees, ask, constant, distance, one_step, target

from anydraft.control.fixed import Fixed
from anydraft.drafters.draft_model import DraftModel
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.speculative_sampling import SpeculativeSampling


def accepted(rule, p, drafter, tokens=6):
    return one_step((p, drafter, rule), ask(tokens))[0]


def test_the_published_binary_example():
    """Sun et al. 2024: p = (1/3, 2/3), q = (2/3, 1/3), two drafted tokens: 11/9 accepted against 10/9."""
    chain = Trees([-1, 0], ["independent"] * 2, law=(2 / 3, 1 / 3))
    assert accepted(BlockVerification(), constant((1 / 3, 2 / 3)), chain) == pytest.approx(11 / 9, abs=1e-12)
    assert accepted(SpeculativeSampling(), constant((1 / 3, 2 / 3)), chain) == pytest.approx(10 / 9, abs=1e-12)


def closed_form(p, q, gamma, vocab, prompt, cap):
    """Expected accepted length: the sum over prefixes x drawn from q of the probability that each is kept.

    Token by token that is the product of min(1, p/q); for blocks it is c_i = min(1, c_{i-1} p/q) (Sun et al. 2024, Lemma 4).
    """
    total = 0.0
    for n in range(1, gamma + 1):
        for path in itertools.product(range(vocab), repeat=n):
            drawn, weight = 1.0, 1.0
            for i, token in enumerate(path):
                prefix = [*prompt, *path[:i]]
                on, off = (float(m.logits(prefix).softmax(-1)[token]) for m in (p, q))
                drawn *= off
                weight = min(1.0, weight * on / off) if cap == "block" else weight * min(1.0, on / off)
            total += drawn * weight
    return total


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_the_accepted_length_is_the_closed_form_and_never_shorter(seed, gamma):
    p, q = target(seed), target(seed + 30)
    chain = Trees(range(-1, gamma - 1), ["independent"] * gamma, seed=seed + 30)
    block, token = accepted(BlockVerification(), p, chain), accepted(SpeculativeSampling(), p, chain)
    assert block == pytest.approx(closed_form(p, q, gamma, 3, [0, 1], "block"), abs=1e-12)
    assert token == pytest.approx(closed_form(p, q, gamma, 3, [0, 1], "token"), abs=1e-12)
    assert block == pytest.approx(token, abs=1e-12) if gamma == 1 else block > token + 1e-6


def test_points_are_judged_as_token_by_token():
    chain = Trees([-1, 0, 1], ["determined"] * 3)
    assert accepted(BlockVerification(), target(), chain) == pytest.approx(accepted(SpeculativeSampling(), target(), chain), abs=1e-12)


def test_equal_laws_are_accepted_whole():
    """c = 1 and nothing left of p: 0/0 in the published formula."""
    chain = Trees([-1, 0, 1], ["independent"] * 3, seed=1)
    assert accepted(BlockVerification(), target(1), chain) == pytest.approx(3.0, abs=1e-12)


def test_one_impossible_token_ends_the_block():
    p, q = constant((0.5, 0.5, 0.0)), (0.0, 0.0, 1.0)
    count, law = one_step((p, Trees([-1, 0], ["independent"] * 2, law=q), BlockVerification()), ask(5))
    assert count == 0.0 and law == pytest.approx({0: 0.5, 1: 0.5}, abs=1e-12)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(4))
def test_the_law_is_kept(seed):
    parts = (target(seed), DraftModel(target(seed + 50), 3), BlockVerification(), Fixed(2))
    assert distance(lambda: parts, ask(3), lambda: target(seed)) < EXACT
