"""SVIP keeps the law and stops behind the first law whose entropy is too large, whose token stays."""

import math

import pytest
import torch
from lookahead import distances
from toys import EXACT, ask

from anydraft.control.svip import SVIP
from anydraft.core.records import Context, Level


@pytest.mark.parametrize("limit", [0.0, 0.8, 10.0])
def test_keeps_the_law(limit):
    assert max(distances(lambda: SVIP(3, limit))) < EXACT


def test_the_bound_is_the_root_of_the_entropy_in_nats():
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [9.0, 0.0, 0.0]])  # entropies ln 2 and nearly 0
    level = Level(depth=1, token=torch.tensor([0, 0]), prob=torch.tensor([0.5, 1.0]), logits=logits, live=torch.ones(2, dtype=torch.bool))
    context = Context.start([ask(4), ask(4)])
    for limit, expected in ((math.sqrt(math.log(2)) + 0.01, [True, True]), (math.sqrt(math.log(2)) - 0.01, [False, True])):
        assert SVIP(4, limit).size(context).go_on(context, level).tolist() == expected
