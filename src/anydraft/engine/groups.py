"""Which rows are read together, when what they lack differs in length.

One forward is a rectangle: as many columns for every row as the longest lacks. Texts of 64 to 399 tokens fill half of it. Rows of near
lengths are therefore read together and others apart, as far as the columns saved are worth the additional forwards.
"""

from __future__ import annotations

from collections.abc import Sequence

SMALL = 1 / 8  # share of a forward's columns that padding may take before anything is parted


def groups(lacks: Sequence[int], price: int) -> list[list[int]]:
    """Rows to read together, longest first; rows that lack nothing are left out.

    Args:
        lacks: tokens that each row lacks.
        price: columns whose computation takes as long as what a forward costs whatever its size.

    >>> groups([64, 399, 380, 0, 70], price=64)
    [[1, 2], [4, 0]]
    >>> groups([64, 60, 50, 0, 70], price=64)
    [[4, 0, 1, 2]]
    """
    order = sorted((b for b, n in enumerate(lacks) if n > 0), key=lambda b: -lacks[b])
    if not order:
        return []
    columns = len(order) * lacks[order[0]]
    if columns - sum(lacks) <= max(price, SMALL * columns):
        return [order]
    # best[n]: the least cost of the first n rows, and where their last group begins; an optimal group is a run in the order of lengths
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        best.append(min((best[start][0] + price + (end - start) * lacks[order[start]], start) for start in range(end)))
    found: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        found.append(order[start:end])
        end = start
    return found[::-1]
