"""Toy models: a law is a pure function of the whole context, the same through every door."""

import torch

from anydraft.engine.table import TableModel


def test_logits_are_a_function_of_the_context_and_the_seed():
    table = TableModel(5, seed=3)
    assert torch.equal(table.logits([1, 2]), TableModel(5, seed=3).logits([1, 2]))
    others = [table.logits([2, 1]), table.logits([0, 1, 2]), TableModel(5, seed=4).logits([1, 2])]
    assert all(not torch.equal(table.logits([1, 2]), other) for other in others)
    assert table.logits([1]).dtype == torch.float64 and table.logits([1]).isfinite().all()


def test_a_window_forgets_and_a_bias_shifts():
    short = TableModel(5, window=2)
    assert torch.equal(short.logits([4, 1, 2]), short.logits([0, 1, 2]))
    banned = TableModel(5, bias=torch.tensor([0.0, -torch.inf, 0, 0, 0], dtype=torch.float64))
    assert banned.logits([1])[1] == -torch.inf and torch.equal(banned.logits([1])[2:], TableModel(5).logits([1])[2:])
    assert not TableModel(5, spread=0.0).logits([1]).any()


def test_score_next_and_grow_are_the_table(kit):
    table, rows = TableModel(kit.VOCAB), kit.prompts(4, 2)
    tokens, shape = kit.prompts(3, 3, seed=1), [-1, 0, 0]
    context = kit.context_of(rows)
    logits = table.score(context, kit.draft_of(tokens, [shape] * 2)).logits
    grown = [table.next(context)[:, None]]
    grown += [table.grow(torch.tensor([[row[0]] for row in tokens]), torch.tensor([[-1]] * 2))]
    grown += [table.grow(torch.tensor([row[1:] for row in tokens]), torch.tensor([[0, 0]] * 2))]
    for b, row in enumerate(rows):
        want = torch.stack([table.logits(path) for path in kit.paths_of(row, tokens[b], shape)])
        assert torch.equal(logits[b], want) and torch.equal(torch.cat(grown, 1)[b], want)


def test_a_whole_tree_may_grow_in_one_call(kit):
    table, rows = TableModel(kit.VOCAB), kit.prompts(4, 2)
    tokens, shape = kit.prompts(4, 4, seed=1)[:2], [-1, 0, 0, 1]
    table.next(kit.context_of(rows))
    grown = table.grow(torch.tensor(tokens), torch.tensor([shape] * 2))
    for b, row in enumerate(rows):
        assert torch.equal(grown[b], torch.stack([table.logits(path) for path in kit.paths_of(row, tokens[b], shape)[1:]]))


def test_the_law_of_a_score_is_the_softmax_of_its_logits(kit):
    from anydraft.core.records import Context, Draft, Request

    table = TableModel(7)
    context = Context.start([Request(prompt=torch.tensor([1, 2]), max_new_tokens=3, temperature=1.0)])
    scores = table.score(context, Draft.empty(1))
    assert torch.allclose(scores.law.rows(0)[0], table.logits([1, 2]).softmax(-1), atol=1e-15)
