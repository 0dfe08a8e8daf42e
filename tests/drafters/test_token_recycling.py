"""Token recycling: what is remembered, and the tree that it is unrolled into."""

import pytest
import torch
from toys import EXACT, RULES, ask, distance, target

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Size
from anydraft.core.stopping import Stopping
from anydraft.core.tree import check, depths
from anydraft.drafters.token_recycling import TokenRecycling
from anydraft.engine.table import TableModel
from anydraft.schedules.sequential import sequential

V = 12


def steps(drafter, requests, nodes=6, rule="match"):
    """The steps of a whole run, each with what the drafter then remembers of the first request."""
    start, stopping = Context.start(requests), {s: Stopping(r) for s, r in enumerate(requests)}
    refill = lambda context: start if context is None else context if context.size else None  # noqa: E731
    return sequential(TableModel(V, seed=2, window=1), drafter, RULES[rule](), Fixed(nodes), Keyed(), refill, stopping)


def test_every_scored_node_teaches_and_the_accepted_one_last():
    drafter, requests = TokenRecycling(V, k=3), [ask(12, seed=4), ask(12, seed=5)]
    held = {0: {}, 1: {}}
    for step in steps(drafter, requests):
        for b, slot in enumerate(step.before.slot.tolist()):
            known = held[slot]
            path = step.path[b]
            top = step.scores.logits[b].topk(3).indices.tolist()
            for node in [n for n in range(step.draft.nodes) if step.draft.live[b, n]]:
                known[int(step.draft.tokens[b, node])] = top[node + 1]
            known[int(step.before.row(b)[-1])] = top[0]
            for node in path:
                known[int(step.draft.tokens[b, node])] = top[node + 1]
            if step.finish[b] is None:
                table = drafter._rows(slot, requests[slot])
                assert {x: row for x, row in enumerate(table.tolist()) if row[0] >= 0} == known
    assert len(held[0]) > 2


def test_the_tree_is_unrolled_from_the_table():
    """Every live node carries the remembered runner-up of its parent's token; siblings stand by rank and are distinct."""
    drafter, drafted = TokenRecycling(V, k=3), 0
    for step in steps(drafter, [ask(12, seed=4)], nodes=10):
        draft, root = step.draft, int(step.before.row(0)[-1])
        check(draft, V)
        for node in range(draft.nodes):
            if draft.live[0, node]:
                drafted += 1
                above = int(draft.parent[0, node])
                siblings = [n for n in range(draft.nodes) if int(draft.parent[0, n]) == above and draft.live[0, n]]
                token = root if above < 0 else int(draft.tokens[0, above])
                # the table has window 1: what followed a token is a function of that token
                best = TableModel(V, seed=2, window=1).logits([token]).topk(3).indices.tolist()
                assert int(draft.tokens[0, node]) == best[siblings.index(node)]
    assert drafted > 10, "or nothing was checked"


def test_nothing_is_drafted_before_anything_was_seen():
    first = next(iter(steps(TokenRecycling(V), [ask(12)])))
    assert not first.draft.live.any(), "unseen rows give no nodes, not token 0"


@pytest.mark.parametrize("nodes", [1, 5, 17])
def test_the_budget_and_the_limit_are_each_rows_own(nodes):
    drafter = TokenRecycling(V, k=3)
    for step in steps(drafter, [ask(20, seed=1), ask(5, seed=2)], nodes=nodes):
        room = step.before.limit - step.before.length - 1
        assert (step.draft.live.sum(1) <= nodes).all()
        assert (depths(step.draft.parent) * step.draft.live <= room[:, None]).all() if step.draft.nodes else True


def test_requests_do_not_teach_each_other():
    drafter = TokenRecycling(V, k=3)
    alone = [step.draft.tokens[0][step.draft.live[0]].tolist() for step in steps(TokenRecycling(V, k=3), [ask(12, seed=4)])]
    beside = []
    for step in steps(drafter, [ask(12, seed=4), ask(12, seed=9)]):
        if 0 in step.before.slot.tolist():
            b = step.before.slot.tolist().index(0)
            beside.append(step.draft.tokens[b][step.draft.live[b]].tolist() if step.draft.nodes else [])
    assert alone == beside


def test_a_smaller_budget_is_a_prefix():
    drafter = TokenRecycling(V, k=3)
    context = next(iter(steps(drafter, [ask(30, seed=4)]))).after
    for _ in steps(drafter, [ask(2, seed=4)]):
        pass
    table = drafter._rows(0, context.requests[0])
    table[:] = TableModel(V, seed=2, window=1).logits([0]).topk(3).indices
    drafts = [drafter.propose(context, Size(depth=torch.tensor([n]), nodes=torch.tensor([n])), None) for n in (4, 9)]
    assert drafts[0].tokens[0].tolist() == drafts[1].tokens[0, :4].tolist()
    assert drafts[0].parent[0].tolist() == drafts[1].parent[0, :4].tolist()


@pytest.mark.proof
@pytest.mark.parametrize("rule", ["match", "recursive_rejection"])
def test_the_law_is_kept(rule):
    assert distance(lambda: (target(), TokenRecycling(3, k=2), RULES[rule](), Fixed(4)), ask(4)) < EXACT
