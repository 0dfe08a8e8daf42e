"""Fixed keeps the law at every length and asks for what it was told."""

import pytest
from lookahead import distances
from toys import EXACT, ask

from anydraft.control.fixed import Fixed
from anydraft.core.records import Context


@pytest.mark.parametrize("k", [0, 1, 3])
def test_keeps_the_law(k):
    assert max(distances(lambda: Fixed(k))) < EXACT


def test_every_row_gets_the_same_and_never_more_than_it_may_emit():
    size = Fixed(5).size(Context.start([ask(9), ask(3)]))
    assert size.depth.tolist() == [5, 5] and size.clipped(Context.start([ask(9), ask(3)])).depth.tolist() == [5, 2]
