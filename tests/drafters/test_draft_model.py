"""Draft model: what is drawn, from which law, and how far."""

import pytest
import torch
from toys import EXACT, RULES, ask, distance, target

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.core.records import DETERMINED, DISTINCT, INDEPENDENT, Context, Size
from anydraft.core.tree import check, depths
from anydraft.drafters.draft_model import DraftModel
from anydraft.engine.table import TableModel

V = 6


def proposed(drafter, requests, depth, nodes=None, go_on=None):
    context = Context.start(requests)
    size = Size(depth=torch.tensor(depth), nodes=torch.tensor(nodes or depth), **({"go_on": go_on} if go_on else {}))
    draft = drafter.propose(context, size, Keyed().at(context))
    check(draft, V)
    return context, draft


def prefix(context, draft, b, node):
    tail = []
    while node >= 0:
        tail.append(int(draft.tokens[b, node]))
        node = int(draft.parent[b, node])
    return context.row(b).tolist() + tail[::-1]


@pytest.mark.parametrize("branching, kind", [((), "independent"), ((3, 2), "distinct"), ((2, 2), "independent")])
def test_every_node_carries_the_law_it_was_drawn_from(branching, kind):
    """The processed law after the node's own path: temperature and top-k included."""
    model = TableModel(V, seed=3)
    requests = [ask(9, seed=s, temperature=0.7, top_k=4) for s in range(5)]
    context, draft = proposed(DraftModel(model, V, branching, kind), requests, [3] * 5, [9] * 5)
    for b in range(5):
        for node in range(draft.nodes):
            if draft.live[b, node]:
                logits = model.logits(prefix(context, draft, b, int(draft.parent[b, node]))) / 0.7
                logits[logits < logits.topk(4).values[-1]] = -torch.inf
                row = draft.law.rows(draft.index[:, node])[b]
                assert torch.allclose(row, logits.softmax(-1), atol=1e-12) and row[draft.tokens[b, node]] > 0
                assert row.dtype == torch.float64, "the dtype that it was drawn in"
    assert (draft.kind == {"independent": INDEPENDENT, "distinct": DISTINCT}[kind]).all()


def test_distinct_siblings_are_distinct_and_end_with_the_laws_support():
    requests = [ask(9, seed=s, top_k=2) for s in range(8)]
    _, draft = proposed(DraftModel(TableModel(V, seed=3), V, (3, 3), "distinct"), requests, [2] * 8, [30] * 8)
    for tokens, parent, live in zip(draft.tokens.tolist(), draft.parent.tolist(), draft.live.tolist()):
        for above in set(parent):
            children = [t for t, p, alive in zip(tokens, parent, live) if p == above and alive]
            assert len(children) == len(set(children)) <= 2


def test_a_row_goes_no_deeper_than_its_own_size_and_its_limit():
    requests = [ask(9), ask(9), ask(3), ask(1), ask(9)]
    _, draft = proposed(DraftModel(TableModel(V, seed=3), V), requests, [4, 2, 4, 4, 0])
    assert draft.live.sum(1).tolist() == [4, 2, 2, 0, 0], "the last token before the limit is the target's"


def test_a_trees_budget_is_each_rows_own():
    drafter = DraftModel(TableModel(V, seed=3), V, (2, 2), "distinct")
    requests = [ask(9, seed=s) for s in range(3)]
    _, together = proposed(drafter, requests, [2] * 3, [6, 3, 1])
    assert together.live.sum(1).tolist() == [6, 3, 1]
    for b, budget in enumerate([6, 3, 1]):
        _, alone = proposed(drafter, [requests[b]], [2], [budget])
        assert alone.tokens[0, :budget].tolist() == together.tokens[b, :budget].tolist()


def test_no_room_means_no_forward():
    model = TableModel(V, seed=3)
    _, draft = proposed(DraftModel(model, V), [ask(1), ask(1)], [5, 5])
    assert draft.nodes == 0 and model.forwards == 0


def test_a_control_stops_after_a_kept_token():
    """Whoever doubts a drawn token may stop behind it, never take it back."""
    asked = []

    def go_on(context, level):
        asked.append((level.depth, level.token.tolist()))
        return torch.tensor([True, False])

    _, draft = proposed(DraftModel(TableModel(V, seed=3), V), [ask(9, seed=1), ask(9, seed=2)], [3, 3], go_on=go_on)
    assert draft.live.tolist() == [[True, True, True], [True, False, False]]
    assert [depth for depth, _ in asked] == [1, 2], "nobody is asked behind the last level"
    assert asked[0][1] == draft.tokens[:, 0].tolist()


def test_greedy_trees_take_the_most_likely_tokens():
    model = TableModel(V, seed=3)
    context, draft = proposed(DraftModel(model, V, (2, 1), "distinct"), [ask(9, temperature=0.0)], [2], [4])
    assert draft.law is None and (draft.kind == DETERMINED).all()
    assert draft.tokens[0, :2].tolist() == model.logits([0, 1]).topk(2).indices.tolist()
    assert depths(draft.parent)[0].tolist() == [1, 1, 2, 2]
    for node in (2, 3):
        assert int(draft.tokens[0, node]) == int(model.logits(prefix(context, draft, 0, int(draft.parent[0, node]))).argmax())


@pytest.mark.proof
@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("rule", ["speculative_sampling", "block_verification"])
def test_a_drafter_of_another_width_keeps_the_law(width, rule):
    """Padding of the logits: ids that the target lacks are never drawn, ids that the drafter lacks are never proposed."""
    assert distance(lambda: (target(), DraftModel(TableModel(width, seed=4), 3), RULES[rule](), Fixed(2)), ask(3)) < EXACT


@pytest.mark.parametrize("width", [4, 9])
def test_padding_is_never_drawn(width):
    _, draft = proposed(DraftModel(TableModel(width, seed=4), V), [ask(9, seed=s) for s in range(64)], [4] * 64)
    assert int(draft.tokens.max()) < min(width, V) and draft.law.rows(0).shape == (64, V)
