"""Trees: what is derived from `parent` equals what a walk over the nodes finds."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anydraft.core.errors import BadDraft
from anydraft.core.law import Dense
from anydraft.core.records import DETERMINED, INDEPENDENT, Draft
from anydraft.core.tree import ancestors, check, child_with, depths, reaches

trees = st.integers(1, 20).flatmap(lambda n: st.tuples(*[st.integers(-1, i - 1) for i in range(n)])).map(list)


def draft(parent, tokens=None, live=None, **changed):
    """One row of determined nodes."""
    parent = torch.tensor([parent])
    made = Draft(
        tokens=torch.tensor([tokens]) if tokens else torch.zeros_like(parent), parent=parent,
        live=torch.tensor([live]) if live else torch.ones_like(parent, dtype=torch.bool), kind=torch.full_like(parent, DETERMINED),
        index=torch.full_like(parent, -1), levels=int(depths(parent).max()), chain=parent[0].tolist() == list(range(-1, parent.shape[1] - 1)),
    )  # fmt: skip
    return dataclasses.replace(made, **changed)


def walk(parent, i):
    above = []
    while i >= 0:
        above.append(i)
        i = parent[i]
    return above


@settings(max_examples=150, deadline=None)
@given(trees)
def test_ancestors_and_depths(parent):
    found = ancestors(torch.tensor([parent]))[0]
    for i in range(len(parent)):
        assert found[i].nonzero().flatten().tolist() == sorted(walk(parent, i))
    assert depths(torch.tensor([parent]))[0].tolist() == [len(walk(parent, i)) for i in range(len(parent))]


def test_rows_have_trees_of_their_own():
    parent = torch.tensor([[-1, 0, 1], [-1, -1, -1], [-1, 0, 0]])
    assert depths(parent).tolist() == [[1, 2, 3], [1, 1, 1], [1, 2, 2]]


def test_a_long_chain():
    parent = torch.arange(-1, 199)[None]
    assert depths(parent)[0].tolist() == list(range(1, 201))


@settings(max_examples=60, deadline=None)
@given(trees, st.randoms())
def test_reach_is_the_deepest_live_node(parent, rng):
    live = []
    for above in parent:  # live nodes hang below live nodes
        live.append((above < 0 or live[above]) and rng.random() < 0.7)
    deepest = max([len(walk(parent, i)) for i, alive in enumerate(live) if alive], default=0)
    assert reaches(draft(parent, live=live)) == [deepest]


def test_no_nodes_reach_nowhere():
    assert reaches(Draft.empty(3)) == [0, 0, 0]


def test_the_first_live_child_with_a_token():
    d = draft([-1, -1, -1, 0, 0], tokens=[4, 5, 5, 4, 5], live=[True, False, True, True, True])
    at = lambda node, token: [x.tolist()[0] for x in child_with(d, torch.tensor([node]), torch.tensor([token]))]  # noqa: E731
    assert at(-1, 4) == [True, 0] and at(-1, 5) == [True, 2], "a node that is padding is nobody's child"
    assert at(0, 5) == [True, 4] and at(2, 4)[0] is False and at(-1, 7)[0] is False


@pytest.mark.parametrize("change, complaint", [
    ({"parent": torch.tensor([[-1, 1]])}, "does not come after its parent"),
    ({"tokens": torch.tensor([[0, 9]])}, "no token of the target"),
    ({"tokens": torch.tensor([[0, -2]])}, "no token of the target"),
    ({"kind": torch.tensor([[INDEPENDENT, INDEPENDENT]])}, "carries no law"),
    ({"kind": torch.tensor([[0, INDEPENDENT]]), "law": Dense(torch.ones(1, 1, 3))}, "carries no law"),
    ({"parent": torch.tensor([[-1, -1]]), "chain": True}, "says it is a chain"),
])  # fmt: skip
def test_a_broken_contract_is_named(change, complaint):
    good = draft([-1, 0], tokens=[0, 2])
    check(good, 3)
    with pytest.raises(BadDraft, match=complaint):
        check(dataclasses.replace(good, **change), 3)


def test_padding_is_not_checked():
    check(draft([-1, 1], tokens=[0, 99], live=[True, False], chain=False), 3)
