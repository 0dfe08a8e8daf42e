"""Contexts: what may be done to one without changing what others hold."""

import pytest
import torch

from anydraft.core.records import Context, Draft, Request


def requests(*lengths, new=5):
    return [Request(prompt=torch.arange(n) + 1, max_new_tokens=new) for n in lengths]


def test_a_context_starts_with_the_prompts():
    context = Context.start(requests(1, 4), slots=[7, 2], max_length=6)
    assert [context.row(b).tolist() for b in range(2)] == [[1], [1, 2, 3, 4]]
    assert context.limit.tolist() == [6, 6] and context.slot.tolist() == [7, 2] and context.step.tolist() == [0, 0]
    assert torch.equal(context.committed, context.length) and context.size == 2


def test_rows_are_picked_with_all_that_is_theirs():
    context = Context.start(requests(1, 2, 3), slots=[5, 6, 7])
    assert context.keep_rows([0, 1, 2]) is context
    some = context.keep_rows([2, 0])
    assert some.slot.tolist() == [7, 5] and [len(r.prompt) for r in some.requests] == [3, 1]
    assert [some.row(b).tolist() for b in range(2)] == [[1, 2, 3], [1]]


def test_contexts_of_unequal_width_join():
    one, two = Context.start(requests(2)), Context.start(requests(9, 1), slots=[4, 5])
    both = one.join(two)
    assert both.size == 3 and both.slot.tolist() == [0, 4, 5] and [len(both.row(b)) for b in range(3)] == [2, 9, 1]
    assert [len(two.join(one).row(b)) for b in range(3)] == [9, 1, 2]


def test_a_provisional_context_is_a_copy():
    context = Context.start(requests(2, 3))
    longer = context.extended([[9, 9, 9], []])
    assert longer.row(0).tolist() == [1, 2, 9, 9, 9] and longer.row(1).tolist() == [1, 2, 3]
    assert longer.committed.tolist() == [2, 3] and longer.length.tolist() == [5, 3]
    longer.ids[:] = 0
    assert context.row(0).tolist() == [1, 2]


def test_requests_are_compared_by_identity():
    one, other = requests(2, 2)
    assert one != other and one == one and len({one, other}) == 2


def test_records_are_frozen():
    context = Context.start(requests(1))
    for record, name in ((context, "length"), (Draft.empty(1), "tokens"), (context.requests[0], "seed")):
        with pytest.raises(AttributeError):
            setattr(record, name, None)


def test_a_draft_moves_with_its_law_and_only_if_it_has_to():
    """The rule judges where the target's logits are; `meta` stands for a device here, because it is one on every machine."""
    from anydraft.core.law import Dense, Joined

    place, host = torch.device("meta"), torch.device("cpu")
    ids = torch.zeros(2, 3, dtype=torch.int64)
    for law in (None, Dense(torch.ones(2, 3, 5))):
        draft = Draft(tokens=ids, parent=ids, live=ids.bool(), kind=ids, index=ids, law=law, levels=3, forwards=4)
        moved = draft.on(place)
        assert draft.on(host) is draft and moved.tokens.device == moved.live.device == moved.index.device == place
        assert (moved.levels, moved.forwards, moved.nodes) == (3, 4, 3)
        assert moved.law is None if law is None else moved.law.probs.device == place
    joined = Draft(tokens=ids, parent=ids, live=ids.bool(), kind=ids, index=ids, law=Joined([Dense(torch.ones(2, 3, 5))], [0])).on(place)
    assert joined.law.laws[0].probs.device == place
