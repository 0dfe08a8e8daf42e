"""What a drafter and a lookahead would bring, from a few numbers: for people without the models, and for the planner.

Source: Leviathan et al. 2023, arXiv:2211.17192, section 3, with a measured v(n) instead of a flat one. The chances that tokens stand are a curve
by depth, because tokens are not independent: a draft whose first tokens stood is in easy text. Everything here is modelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anydraft.core.costs import Costs
from anydraft.core.costs import survival as independent
from anydraft.core.errors import BadOption


@dataclass(frozen=True, slots=True)
class Prediction:
    """One lookahead: tokens a step, and the speed-up over plain decoding with its interval (equal to it where nothing was counted)."""

    lookahead: int
    tokens_per_step: float
    speedup: float
    low: float
    high: float


def speedup(costs: Costs, curve: Sequence[float], k: int, batch: int = 1) -> tuple[float, float]:
    """(tokens a step, speed-up) of the constant lookahead k when the j-th token stands with probability curve[j - 1].

    >>> speedup(Costs(draft=0.1, verify=((1, 1.0),)), [0.8, 0.64], 2)
    (2.44, 2.033333333333333)
    """
    tokens = 1 + sum(curve[:k])
    return tokens, tokens * costs.step(0, batch) / costs.step(k, batch)


def predict(acceptance: float, draft_cost: float, *, growth: float = 0.02, overhead: float = 0.0, most: int = 16) -> list[Prediction]:
    """Predictions for k = 0..most from plain numbers.

    Args:
        acceptance: probability that a draft token stands if those before it did, in [0, 1].
        draft_cost: seconds of one draft level over seconds of one plain step.
        growth: how much longer a target forward takes for each further token, as a share of a plain step.
        overhead: what a step with a draft costs besides, in plain steps.
    Raises:
        BadOption: a number out of its range.
    """
    for name, value, top in (("acceptance", acceptance, 1.0), ("draft_cost", draft_cost, None), ("growth", growth, None), ("overhead", overhead, None)):
        if not value >= 0 or (top is not None and value > top):
            raise BadOption(f"{name} is not usable", got=value, expected=f"0..{top:g}" if top is not None else "a number >= 0")
    costs = Costs(draft=draft_cost, verify=((1, 1.0), (101, 1.0 + 100 * growth)), start=overhead, measured=False)
    curve = independent(acceptance, most)
    made = []
    for k in range(most + 1):
        tokens, ratio = speedup(costs, curve, k)
        made.append(Prediction(k, tokens, ratio, ratio, ratio))
    return made


def from_runs(
    costs: Costs, runs: Sequence[tuple[int, int]], lookaheads: Sequence[int], *, batch: int = 1, draws: int = 400, recorded: int | None = None
) -> list[Prediction]:
    """Predictions from recorded drafts.

    A shorter lookahead begins its drafts in other places: in the middle of what a long draft got right at once. So each stretch of text
    that the recorded drafts got right is walked through again with the lookahead asked about, and not cut off at its k-th token.

    Args:
        runs: (drafted, stood) of each draft in the order of the text, recorded with a lookahead at least as long as those asked about.
        lookaheads: constants k.
        draws: bootstrap samples of the stretches, for the interval.
        recorded: the lookahead of the recording, for a drafter that can always draft on; its drafts may be of more or fewer tokens of the
            target. None for one that copies what it finds.
    Raises:
        BadOption: no drafts.
    """
    if not any(drafted for drafted, _ in runs):
        raise BadOption("nothing was drafted, so there is nothing to predict from", next_step="Give prompts on which the drafter finds something")
    held, made = stretches(runs, recorded is not None), []
    lengths = [drafted for drafted, _ in runs if drafted]
    share = 1.0 if recorded is None else min(1.0, sum(lengths) / len(lengths) / recorded)
    picks = np.random.default_rng(0).integers(0, len(held), (draws, len(held)))
    for k in lookaheads:
        wide = share * k
        few = int(wide)
        one, two = (np.array([walk(costs, d, s, n, k, batch) for d, s in held]) for n in (few, few + 1))
        walked = one + (wide - few) * (two - one)  # (tokens, steps, seconds) of each stretch
        tokens, steps, seconds = walked.sum(0)
        drawn = walked[picks].sum(1)
        ratios = np.sort(drawn[:, 0] * costs.step(0, batch) / drawn[:, 2])
        low, high = float(ratios[int(0.025 * draws)]), float(ratios[int(0.975 * draws)])
        made.append(Prediction(k, float(tokens / steps), float(tokens * costs.step(0, batch) / seconds), low, high))
    return made


def stretches(runs: Sequence[tuple[int, int]], endless: bool = False) -> list[tuple[float, int]]:
    """(tokens that could be drafted, tokens that stood) from one refusal to the next: drafts that stood to the last token go on in the next one.

    endless: whether the drafter can always draft on; one that copies can where it copied as much as ever.

    >>> stretches([(4, 1), (4, 4), (4, 2), (1, 1)])
    [(inf, 1), (inf, 7), (1, 1)]
    """
    longest = max(drafted for drafted, _ in runs)
    found, carried = [], 0
    for drafted, stood in runs:
        full = drafted > 0 if endless else drafted == longest
        if full and stood == drafted:
            carried += stood + 1  # the target's own token went with the draft's
            continue
        found.append((math.inf if full else carried + drafted, carried + stood))
        carried = 0
    return found + ([(math.inf, carried - 1)] if carried else [])


def walk(costs: Costs, drafted: float, stood: int, wide: int, k: int, batch: int = 1) -> tuple[float, float, float]:
    """(tokens, steps, seconds) that drafts of `wide` tokens, for which lookahead k is paid, take for one stretch and the target's token behind it.

    >>> walk(Costs(draft=0.125, verify=((1, 1.0),)), 9, 4, 2, 2)
    (5.0, 2.0, 2.5)
    """
    tokens, steps, seconds = 0, 0, 0.0
    while tokens <= stood:
        left = max(0, drafted - tokens)
        here = int(min(wide, left))
        tokens += min(here, stood - tokens) + 1
        steps += 1
        seconds += costs.step(int(min(k, left)), batch)
    return float(tokens), float(steps), seconds


def curve_of(runs: Sequence[tuple[int, int]], most: int) -> list[float]:
    """Chance that the j-th token of a draft stands, j = 1..most; a draft that ended early or copied less counts as not standing there."""
    return [sum(stood >= j for _, stood in runs) / len(runs) for j in range(1, most + 1)]
