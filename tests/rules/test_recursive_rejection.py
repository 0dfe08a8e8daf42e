"""Recursive rejection: the acceptances of a one-position toy for every kind of sibling, and mixed siblings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import EXACT, Trees, ask, constant, distance, one_step, target

from anydraft.control.fixed import Fixed
from anydraft.core.records import KINDS
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.planted import Honest

P, Q = (0.50, 0.30, 0.15, 0.05), (0.10, 0.25, 0.25, 0.40)


@pytest.mark.parametrize("rule", [RecursiveRejection, Honest])
@pytest.mark.parametrize("kind, siblings, expected", [
    ("independent", 1, 0.5500), ("independent", 2, 0.6450), ("independent", 3, 0.6805),
    ("distinct", 1, 0.5500), ("distinct", 2, 0.6717), ("distinct", 3, 0.7636), ("distinct", 4, 1.0000),
])  # fmt: skip
def test_acceptance_of_siblings(rule, kind, siblings, expected):
    accepted, law = one_step((constant(P), Trees([-1] * siblings, [kind] * siblings, law=Q), rule()), ask(4))
    assert accepted == pytest.approx(expected, abs=5e-5)
    assert [law[t] for t in range(4)] == pytest.approx(P, abs=1e-12)


@pytest.mark.parametrize("rule", [RecursiveRejection, Match])
def test_acceptance_of_points(rule):
    accepted, law = one_step((constant(P), Trees([-1, -1], ["determined"] * 2, law=Q, points=[3, 1]), rule()), ask(4))
    assert accepted == pytest.approx(0.3500, abs=1e-12)
    assert [law[t] for t in range(4)] == pytest.approx(P, abs=1e-12)


@pytest.mark.parametrize("kinds, points", [
    (["determined", "independent"], [0]), (["independent", "determined"], [0]), (["independent", "distinct", "distinct"], []),
    (["determined", "distinct", "distinct"], [3]), (["distinct", "determined", "distinct"], [1]),
    (["distinct", "independent", "determined"], [2]),
])  # fmt: skip
@pytest.mark.parametrize("holes", [0.0, 0.4])
def test_mixed_siblings_leave_the_law(kinds, points, holes):
    drafter = Trees([-1] * len(kinds), kinds, law=Q, points=points, holes=holes)
    accepted, law = one_step((constant(P), drafter, RecursiveRejection()), ask(4))
    assert [law[t] for t in range(4)] == pytest.approx(P, abs=1e-12)
    alone = one_step((constant(P), Trees([-1], kinds[:1], law=Q, points=points[:1], holes=holes), RecursiveRejection()), ask(4))[0]
    assert accepted >= alone - 1e-12, "a further sibling never costs acceptance"


def test_a_chain_is_judged_as_by_speculative_sampling():
    chain = Trees([-1, 0, 1], ["independent", "determined", "independent"])
    both = [one_step((target(), chain, rule()), ask(6)) for rule in (RecursiveRejection, SpeculativeSampling)]
    assert both[0][0] == pytest.approx(both[1][0], abs=1e-12) and both[0][1] == pytest.approx(both[1][1], abs=1e-12)


def test_more_distinct_siblings_than_tokens():
    """The law's support is used up: the last sibling does not exist, and nothing is divided by zero."""
    drafter = Trees([-1] * 4, ["distinct"] * 4, law=(0.5, 0.25, 0.25))
    accepted, law = one_step((constant((0.2, 0.3, 0.5)), drafter, RecursiveRejection()), ask(4))
    assert accepted == pytest.approx(1.0, abs=1e-12)
    assert [law[t] for t in range(3)] == pytest.approx((0.2, 0.3, 0.5), abs=1e-12)


trees = st.integers(1, 4).flatmap(lambda n: st.tuples(*[st.tuples(st.integers(-1, i - 1), st.sampled_from(list(KINDS))) for i in range(n)]))


@pytest.mark.proof
@settings(max_examples=40, deadline=None, derandomize=True)
@given(trees, st.integers(0, 99), st.sampled_from([0.0, 0.3]))
def test_any_tree_of_any_kinds_leaves_the_law_of_the_first_token(tree, seed, holes):
    parent, kind = zip(*tree)
    drafter = Trees(parent, kind, seed=seed + 100, holes=holes)
    _, law = one_step((target(seed), drafter, RecursiveRejection()), ask(9))
    expected = target(seed).logits([0, 1]).softmax(-1).tolist()
    assert [law.get(t, 0.0) for t in range(3)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(4))
def test_the_law_is_kept(seed):
    drafter = Trees([-1, -1, 0], ["distinct", "distinct", "independent"], seed=seed + 50)
    assert distance(lambda: (target(seed), drafter, RecursiveRejection(), Fixed(3)), ask(3), lambda: target(seed)) < EXACT
