"""Commit: the only writer; it writes behind what was there, stops inside a draft, and writes nothing when logits are spoilt."""

import pytest
import torch

from anydraft.core.commit import commit
from anydraft.core.errors import NonFiniteLogits
from anydraft.core.law import Point
from anydraft.core.records import DETERMINED, Context, Draft, Request, Scores, Verdict
from anydraft.core.stopping import Stopping

V, K = 10, 3


def setting(rows, count, token, *, limit=9, eos=(), dead=()):
    """A context of `rows` prompts of unequal length, each with a chain of drafted tokens 4, 5, 6, and a verdict about it."""
    requests = [Request(prompt=torch.arange(b + 1), max_new_tokens=limit, eos=frozenset(eos)) for b in range(rows)]
    context, nodes = Context.start(requests), torch.arange(K).expand(rows, K)
    live = torch.ones(rows, K, dtype=torch.bool)
    for b, n in dead:
        live[b, n] = False
    draft = Draft(tokens=nodes + 4, parent=nodes - 1, live=live, kind=nodes * 0 + DETERMINED, index=nodes * 0 - 1, levels=K)
    logits = torch.zeros(rows, 1 + K, V)
    scores = Scores(law=Point(logits.argmax(-1), V), logits=logits)
    count = torch.tensor(count)
    path = torch.where(nodes < count[:, None], nodes, -1)
    return context, draft, scores, Verdict(path=path, count=count, token=torch.tensor(token)), [Stopping(r) for r in requests]


def test_accepted_tokens_and_the_targets_own_are_written_behind_each_row():
    context, *rest = setting(3, [0, 2, 3], [9, 8, 7])
    before = [context.row(b).tolist() for b in range(3)]
    done = commit(context, *rest)
    assert [done.context.row(b).tolist()[b + 1 :] for b in range(3)] == [[9], [4, 5, 8], [4, 5, 6, 7]]
    assert [done.context.row(b).tolist()[: b + 1] for b in range(3)] == before
    assert done.emitted.tolist() == [1, 3, 4] and done.path == [[], [0, 1], [0, 1, 2]] and done.finish == (None, None, None)
    assert done.context.step.tolist() == [1, 1, 1] and done.context.committed.tolist() == done.context.length.tolist()
    assert [context.row(b).tolist() for b in range(3)] == before, "the old context says what it said"


def test_the_limit_falls_inside_a_draft():
    done = commit(*setting(2, [3, 3], [9, 9], limit=2))
    assert done.emitted.tolist() == [2, 2] and done.finish == ("length", "length")
    assert done.context.row(0).tolist() == [0, 4, 5] and (done.context.length <= done.context.limit).all()


def test_the_end_token_falls_inside_a_draft():
    context, draft, scores, verdict, stopping = setting(2, [3, 1], [9, 9], eos={5})
    done = commit(context, draft, scores, verdict, stopping)
    assert done.emitted.tolist() == [2, 2] and done.finish == ("stop", None)
    assert stopping[0].ids == [4, 5] and stopping[1].ids == [4, 9], "what the rule accepted behind the end is not written"
    assert done.path == [[0, 1, 2], [0]], "but it is known that it was accepted"


def test_a_token_that_is_missing_is_not_written():
    """A parallel schedule may have no row behind its last node."""
    done = commit(*setting(2, [3, 3], [-1, 8]))
    assert done.emitted.tolist() == [3, 4]


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, torch.inf])
@pytest.mark.parametrize("row", [0, 2])
def test_spoilt_logits_raise_and_nothing_is_written(value, row):
    context, draft, scores, verdict, stopping = setting(2, [3, 3], [9, 9])
    scores.logits[1, row] = value
    ids = context.ids.clone()
    with pytest.raises(NonFiniteLogits, match="NaN or without any finite value"):
        commit(context, draft, scores, verdict, stopping)
    assert torch.equal(context.ids, ids) and all(not s.ids for s in stopping)


def test_one_nan_among_good_logits_is_spoilt_too():
    context, draft, scores, verdict, stopping = setting(1, [0], [9])
    scores.logits[0, 0, 3] = torch.nan
    with pytest.raises(NonFiniteLogits):
        commit(context, draft, scores, verdict, stopping)


def test_masked_ids_are_not_spoilt():
    context, draft, scores, verdict, stopping = setting(1, [0], [9])
    scores.logits[0, :, 3:] = -torch.inf
    assert commit(context, draft, scores, verdict, stopping).emitted.tolist() == [1]


def test_the_rows_of_padding_may_hold_anything():
    context, draft, scores, verdict, stopping = setting(2, [1, 0], [9, 9], dead=[(0, 1), (0, 2)])
    scores.logits[0, 2:] = torch.nan
    assert commit(context, draft, scores, verdict, stopping).emitted.tolist() == [2, 1]


def test_a_step_without_a_draft():
    requests = [Request(prompt=torch.tensor([0]), max_new_tokens=1), Request(prompt=torch.tensor([0]), max_new_tokens=4)]
    logits = torch.zeros(2, 1, V)
    none = torch.zeros(2, 0, dtype=torch.int64)
    verdict = Verdict(path=none, count=torch.zeros(2, dtype=torch.int64), token=torch.tensor([3, 4]))
    scores = Scores(law=Point(logits.argmax(-1), V), logits=logits)
    done = commit(Context.start(requests), Draft.empty(2), scores, verdict, [Stopping(r) for r in requests])
    assert done.emitted.tolist() == [1, 1] and done.finish == ("length", None)
