"""Laws: every way of storing one is the same law, and its quantiles, residuals and exclusions hold at the edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anydraft.core.law import Dense, Joined, Point, Subset, proposal_at, proposal_rows, quantile, residual, without
from anydraft.core.records import DETERMINED, INDEPENDENT, Draft

F64 = torch.float64
weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=2, max_size=7).filter(lambda w: sum(w) > 0)


def law(w):
    t = torch.tensor([w], dtype=F64)
    return t / t.sum()


def pairs():
    """(name, law, the same law in full) with B = 2, R = 3, V = 6."""
    probs = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    probs = probs / probs.sum(-1, keepdim=True)
    ids = torch.tensor([0, 2, 3, 5])
    full = torch.zeros(2, 3, 6, dtype=F64)
    full[..., ids] = probs
    point = torch.tensor([[1, 5, 0], [2, 2, 4]])
    hot = torch.nn.functional.one_hot(point, 6).to(F64)
    joined = Joined([Dense(full[:, :1]), Point(point[:, 1:], 6, F64)], [0, 1])
    return {
        "subset": (Subset(ids, probs, 6), Dense(full)),
        "sub-law": (Subset(ids, probs * 0.6, 6), Dense(full * 0.6)),
        "point": (Point(point, 6, F64), Dense(hot)),
        "joined": (joined, Dense(torch.cat([full[:, :1], hot[:, 1:]], 1))),
    }


@pytest.mark.parametrize("name", ["subset", "sub-law", "point", "joined"])
@pytest.mark.parametrize("index", [0, 2, torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([2, 0])])
def test_every_form_is_the_same_law(name, index):
    some, full = pairs()[name]
    assert some.width == full.width == 6
    assert torch.equal(some.rows(index), full.rows(index))
    for token in range(-1, 6):
        ask = torch.tensor([token, 5 - token if token >= 0 else -1])
        assert torch.equal(some.at(index, ask), full.at(index, ask))
    for u in (0.0, 0.1, 0.35, 0.59, 0.62, 0.9, 1 - 2.0**-53):
        uniform = torch.tensor([u, 1 - u if u else 0.0], dtype=F64).clamp_max(1 - 2.0**-53)
        for empty in (False, True):
            if not (empty and name in ("point", "joined")):  # a one-hot law lacks nothing
                assert some.draw(index, uniform, empty=empty).tolist() == full.draw(index, uniform, empty=empty).tolist()


@settings(max_examples=200, deadline=None)
@given(weights, st.floats(0, 1, exclude_max=True))
def test_a_quantile_has_mass_and_stands_where_the_cumulative_law_says(w, u):
    row = law(w)
    token = int(quantile(row, torch.tensor([u], dtype=F64)))
    assert row[0, token] > 0
    below = float(row[0, :token].sum())
    assert below <= u + 1e-12 and u < below + float(row[0, token]) + 1e-12


def test_the_ends_of_the_unit_interval():
    """0 must not draw a token without mass in front, nor the last number below 1 one behind."""
    row = torch.tensor([[0.0, 0.0, 0.4, 0.6, 0.0, 0.0]], dtype=F64)
    assert quantile(row, torch.tensor([0.0], dtype=F64)).tolist() == [2]
    assert quantile(row, torch.tensor([1 - 2.0**-53], dtype=F64)).tolist() == [3]
    assert quantile(row, torch.tensor([0.4], dtype=F64)).tolist() == [3], "half-open cells"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_never_leads_past_the_last_token_with_mass(dtype):
    row = torch.full((1, 1000), 1e-3, dtype=dtype)
    row[:, 900:] = 0
    assert int(quantile(row, torch.tensor([1 - 2.0**-53], dtype=F64))) == 899


def test_a_row_need_not_sum_to_one_unless_empty_means_something():
    row = torch.tensor([[0.2, 0.3]], dtype=F64)
    draw = lambda u, **kw: quantile(row, torch.tensor([u], dtype=F64), **kw).tolist()[0]  # noqa: E731
    assert [draw(u) for u in (0.0, 0.39, 0.41, 0.99)] == [0, 0, 1, 1]
    assert [draw(u, empty=True) for u in (0.0, 0.19, 0.21, 0.49, 0.51, 0.99)] == [0, 0, 1, 1, -1, -1]


def test_quantiles_draw_by_the_law():
    """20,000 evenly spaced quantiles give each token its share to 1/20,000."""
    row = law([0.1, 0.0, 0.5, 0.25, 0.15])
    uniform = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    share = torch.bincount(quantile(row.expand(20_000, -1), uniform), minlength=5) / 20_000
    assert torch.allclose(share.to(F64), row[0], atol=1.01 / 20_000)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(st.floats(0, 1), min_size=n, max_size=n).filter(lambda w: sum(w) > 0.01)] * 2)))
def test_what_is_accepted_and_what_is_left_make_up_p(two):
    """The lemma: min(p, q) + (1 - sum min(p, q)) * residual = p, also where q is a sub-law."""
    p = law(two[0])
    for share in (1.0, 0.6):
        q = law(two[1]) * share
        accepted = torch.minimum(p, q)
        assert torch.allclose(accepted + (1 - accepted.sum()) * residual(p, q), p, atol=1e-12)


def test_the_residual_of_equal_laws_is_the_law():
    p = law([0.2, 0.3, 0.5])
    assert torch.equal(residual(p, p), p)


def test_without_excludes_and_renormalises():
    row = law([0.2, 0.3, 0.5])
    tried = torch.tensor([[True, False, False]])
    assert torch.allclose(without(row, tried), torch.tensor([[0.0, 0.375, 0.625]], dtype=F64))
    assert torch.equal(without(row, torch.ones(1, 3, dtype=torch.bool)), torch.zeros(1, 3, dtype=F64)), "nothing left is zeros, not NaN"
    assert torch.allclose(without(row, torch.zeros(1, 3, dtype=torch.bool)), row)


def test_without_keeps_the_mass_that_a_sub_law_lacks():
    """'No proposal' is not a token: it is not excluded with one."""
    left = without(torch.tensor([[0.2, 0.3]], dtype=F64), torch.tensor([[True, False]]))
    assert torch.allclose(left, torch.tensor([[0.0, 0.3 / 0.8]], dtype=F64))


def test_proposals_of_mixed_kinds():
    draft = Draft(
        tokens=torch.tensor([[2, 1, -1]]), parent=torch.tensor([[-1, -1, -1]]), live=torch.ones(1, 3, dtype=torch.bool),
        kind=torch.tensor([[DETERMINED, INDEPENDENT, INDEPENDENT]]), index=torch.tensor([[-1, 0, 0]]), law=Dense(torch.tensor([[[0.5, 0.2, 0.1]]])),
    )  # fmt: skip
    assert [float(proposal_at(draft, i)) for i in range(3)] == pytest.approx([1.0, 0.2, 0.0])
    assert proposal_rows(draft, 0, 3).tolist() == [[0, 0, 1]]
    assert torch.equal(proposal_rows(draft, 1, 3), proposal_rows(draft, torch.tensor([2]), 3)), "an empty draw has its law"
