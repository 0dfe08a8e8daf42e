"""Who is read together: everybody who lacks something, once, and never at a higher price than all in one forward."""

import itertools
import random

import pytest

from anydraft.engine.groups import SMALL, groups


def cost(parts: list[list[int]], lacks: list[int], price: int) -> int:
    return sum(price + len(part) * max(lacks[b] for b in part) for part in parts)


def partitions(items: list[int]):
    if not items:
        yield []
        return
    first, *rest = items
    for n in range(len(rest) + 1):
        for others in itertools.combinations(rest, n):
            for more in partitions([x for x in rest if x not in others]):
                yield [[first, *others], *more]


@pytest.mark.parametrize("seed", range(30))
def test_no_other_division_is_cheaper(seed):
    rng = random.Random(seed)
    lacks, price = [rng.randint(0, rng.choice([8, 60, 400])) for _ in range(6)], rng.choice([1, 20, 64])
    made, all_ = groups(lacks, price), [b for b, n in enumerate(lacks) if n]
    assert sorted(b for part in made for b in part) == all_
    padding = len(all_) * max(lacks) - sum(lacks)
    if padding <= max(price, SMALL * len(all_) * max(lacks)):
        assert made == ([sorted(all_, key=lambda b: -lacks[b])] if all_ else [])
    else:
        assert cost(made, lacks, price) == min(cost(parts, lacks, price) for parts in partitions(all_))


def test_equal_and_nearly_equal_rows_are_one_forward():
    assert len(groups([300] * 8, 64)) == len(groups([300, 290, 280, 300], 64)) == len(groups([1] * 64, 64)) == len(groups([5, 1, 3], 64)) == 1


def test_a_forward_that_costs_much_is_shared_by_rows_far_apart():
    assert [len(groups([399, 64, 200, 120], price)) for price in (1, 64, 1024)] == [4, 3, 1]


def test_nobody_lacks_anything():
    assert groups([0, 0], 64) == groups([], 64) == []
