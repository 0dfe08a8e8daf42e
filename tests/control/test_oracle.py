"""The oracle keeps the law whatever it is told, and drafts exactly the run of agreements it is told."""

import torch
from lookahead import distances
from toys import EXACT, ask

from anydraft.control.oracle import Oracle
from anydraft.core.records import Context


def test_keeps_the_law_even_when_told_nonsense():
    told = {(0, 1): [True, False, True, True]}
    assert max(distances(lambda: Oracle(told))) < EXACT


def test_depth_is_the_run_of_agreements_from_here():
    request = ask(8, prompt=(0, 1))
    context = Context.start([request, ask(8, prompt=(1, 1))])
    oracle = Oracle({(0, 1): [True, True, False, True]})
    assert oracle.size(context).depth.tolist() == [2, 0]
    assert oracle.size(context.extended([[0, 0], []])).depth.tolist() == [0, 0]
    assert oracle.size(context.extended([[0, 0, 1], []])).depth.tolist() == [1, 0]
    assert torch.equal(Oracle({(0, 1): [True] * 8}, 3).size(context).depth, torch.tensor([3, 0]))
