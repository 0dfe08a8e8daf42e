"""When one more draft token is worth its time: a problem of stopping, solved on a grid.

Source: our own. Tokens per second is a ratio of sums, so a level is worth drafting if the tokens that it may bring exceed those that its
time would bring otherwise, at the throughput reached. Looking one token ahead is too shy where drafting reveals how hard the text is.
"""

from __future__ import annotations

import numpy as np

GRID = np.logspace(-3, 0, 32)  # chances that everything drafted so far stands


def threshold(price: float, rates: np.ndarray, shares: np.ndarray, *, full: bool = True, horizon: int = 12) -> float:
    """The smallest chance of standing at which one more draft token is worth its price, if those to come are like those seen.

    Args:
        price: throughput x seconds of one more level: the tokens that its time would have brought otherwise.
        rates, shares: f[M], acceptance of the next token by kind, and how often each kind comes.
        full: value the best run of further drafts; False: the next token alone.
        horizon: the longest run considered.
    Returns:
        A number > 0; above 1 nothing is worth drafting.
    """
    mean = float(rates @ shares)
    alone = price / max(mean, 1e-9)
    if not full or alone > 20:
        return alone
    # value(s) = max(0, -price + E[s a + value(s a)]): stopping is free, and a hard token may be followed by sure ones
    chances = np.clip(GRID[:, None] * rates, GRID[0], 1.0)
    gain = GRID * mean - price
    value = np.zeros_like(GRID)
    onward = gain
    for _ in range(horizon):
        onward = gain + np.interp(chances, GRID, value) @ shares
        value = np.maximum(0.0, onward)
    if onward[-1] <= 0:
        return alone  # above 1, since the next token's worth is part of any run's
    first = int(np.argmax(onward > 0))
    if first == 0:
        return min(alone, float(GRID[0]))
    share = -onward[first - 1] / (onward[first] - onward[first - 1])
    return min(alone, float(GRID[first - 1] + share * (GRID[first] - GRID[first - 1])))
