"""Speculative sampling: published acceptances by enumeration, and its edges."""

import pytest
import torch
from toys import EXACT, Trees, ask, constant, distance, one_step, target

from anydraft.control.fixed import Fixed
from anydraft.core.law import Dense, Point
from anydraft.core.noise import Keyed
from anydraft.core.records import DETERMINED, INDEPENDENT, Context, Draft, Scores
from anydraft.drafters.draft_model import DraftModel
from anydraft.rules.speculative_sampling import SpeculativeSampling

P, Q = (0.50, 0.30, 0.15, 0.05), (0.10, 0.25, 0.25, 0.40)


def test_one_sample_is_accepted_as_often_as_the_laws_overlap():
    accepted, law = one_step((constant(P), Trees([-1], ["independent"], law=Q), SpeculativeSampling()), ask(4))
    assert accepted == pytest.approx(0.5500, abs=1e-12) == pytest.approx(sum(map(min, P, Q)), abs=1e-12)
    assert [law[t] for t in range(4)] == pytest.approx(P, abs=1e-12)


def test_a_point_is_accepted_as_often_as_the_target_says_it():
    for token in range(4):
        accepted, law = one_step((constant(P), Trees([-1], ["determined"], law=Q, points=[token]), SpeculativeSampling()), ask(4))
        assert accepted == pytest.approx(P[token], abs=1e-12)
        assert [law[t] for t in range(4)] == pytest.approx(P, abs=1e-12)


def test_a_chain_is_accepted_geometrically():
    """Constant acceptance a: the expected count of gamma drafted tokens is a + a^2 + ... + a^gamma."""
    binary = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
    accepted, _ = one_step((constant(binary[0]), Trees([-1, 0], ["independent"] * 2, law=binary[1]), SpeculativeSampling()), ask(4))
    assert accepted == pytest.approx(10 / 9, abs=1e-12)


def test_laws_that_do_not_overlap_and_laws_that_are_equal():
    for q, expected in (((0.0, 0.0, 0.5, 0.5), 0.0), ((0.5, 0.5, 0.0, 0.0), 1.0)):
        accepted, law = one_step((constant((0.5, 0.5, 0.0, 0.0)), Trees([-1], ["independent"], law=q), SpeculativeSampling()), ask(4))
        assert accepted == pytest.approx(expected, abs=1e-12)
        assert law == pytest.approx({0: 0.5, 1: 0.5}, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_token_is_always_accepted_and_an_impossible_one_never(dtype):
    p = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]], dtype=dtype).expand(64, -1, -1)
    for token, count, added in ((1, 1, 2), (0, 0, 1)):
        tokens = torch.full((64, 1), token)
        draft = Draft(
            tokens=tokens, parent=tokens * 0 - 1, live=tokens >= 0, kind=tokens * 0 + INDEPENDENT, index=tokens * 0,
            law=Dense(torch.tensor([[[0.5, 0.25, 0.25]]], dtype=dtype).expand(64, -1, -1)), levels=1,
        )  # fmt: skip
        context = Context.start([ask(4, seed=s) for s in range(64)])
        verdict = SpeculativeSampling().verify(draft, Scores(law=Dense(p), logits=p), Keyed().at(context))
        assert verdict.count.tolist() == [count] * 64 and verdict.token.tolist() == [added] * 64


def test_rows_of_unequal_length_end_at_their_own_last_node():
    p = Point(torch.tensor([[1, 2, 0], [1, 2, 0], [1, 2, 0]]), 3)
    tokens, live = torch.tensor([[1, 2], [1, 2], [1, 2]]), torch.tensor([[True, True], [True, False], [False, False]])
    nodes = torch.arange(2).expand(3, 2)
    draft = Draft(tokens=tokens, parent=nodes - 1, live=live, kind=torch.full_like(tokens, DETERMINED), index=tokens * 0 - 1, levels=2)
    verdict = SpeculativeSampling().verify(draft, Scores(law=p, logits=torch.zeros(3, 3, 3)), Keyed().at(Context.start([ask(4)] * 3)))
    assert verdict.count.tolist() == [2, 1, 0] and verdict.token.tolist() == [0, 2, 1]
    assert verdict.path.tolist() == [[0, 1], [0, -1], [-1, -1]]


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(4))
def test_the_law_is_kept(seed):
    parts = (target(seed), DraftModel(target(seed + 50), 3), SpeculativeSampling(), Fixed(2))
    assert distance(lambda: parts, ask(3), lambda: target(seed)) < EXACT
