"""Sample and match: the same tokens as plain decoding for the same seed, whatever was drafted."""

import pytest
from toys import CONTROLS, DRAFTS, EXACT, RULES, Trees, ask, constant, distance, one_step, target

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.drafters.none import NoDraft
from anydraft.rules.match import Match
from anydraft.testing.exact import run

P = (0.50, 0.30, 0.15, 0.05)
ENDS = (frozenset({2}), frozenset(), frozenset())
REQUESTS = [ask(12, prompt=(0, 1, 0, 2, 0, 1), seed=s, temperature=0.9, eos=ENDS[s % 3]) for s in range(24)]


@pytest.fixture(scope="module")
def plain():
    return {name: run((target(), NoDraft(), rule(), Fixed(0)), REQUESTS, Keyed()) for name, rule in RULES.items()}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_the_path_of_plain_decoding_is_kept(draft, control, plain):
    assert run((target(), DRAFTS[draft](), Match(), CONTROLS[control]()), REQUESTS, Keyed()) == plain["match"]


def test_another_rule_keeps_the_law_but_not_the_path(plain):
    """So the test above can fail."""
    assert run((target(), DRAFTS["draft_model chain"](), RULES["speculative_sampling"](), Fixed(3)), REQUESTS, Keyed()) != plain["match"]


def test_only_a_rule_that_keeps_the_path_draws_by_position_alone(plain):
    assert plain["match"] != plain["speculative_sampling"] == plain["recursive_rejection"] == plain["block_verification"]


def test_acceptance_is_the_targets_mass_on_the_children():
    for kinds, points, expected in ((["determined"], [0], 0.5), (["determined"] * 2, [3, 1], 0.35), (["determined"] * 3, [0, 1, 2], 0.95)):
        drafter = Trees([-1] * len(kinds), kinds, law=(0.25,) * 4, points=points)
        accepted, law = one_step((constant(P), drafter, Match()), ask(4))
        assert accepted == pytest.approx(expected, abs=1e-12)
        assert [law[t] for t in range(4)] == pytest.approx(P, abs=1e-12)


def test_a_sample_is_matched_as_often_as_two_draws_agree():
    q = (0.10, 0.25, 0.25, 0.40)
    accepted, _ = one_step((constant(P), Trees([-1], ["independent"], law=q), Match()), ask(4))
    assert accepted == pytest.approx(sum(a * b for a, b in zip(P, q)), abs=1e-12)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(3))
def test_the_law_is_kept(seed):
    drafter = Trees([-1, -1, 1], ["determined", "determined", "determined"], seed=seed + 50)
    assert distance(lambda: (target(seed), drafter, Match(), Fixed(3)), ask(4), lambda: target(seed)) < EXACT
