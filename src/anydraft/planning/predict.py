"""What a drafter and a lookahead would bring, from a few numbers: for people without the models, and for the planner.

Source: Leviathan et al. 2023, arXiv:2211.17192, section 3, with a measured v(n) instead of a flat one. The chances that tokens stand are a curve
by depth, because tokens are not independent: a draft whose first tokens stood is in easy text. Everything here is modelled.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

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


def from_runs(costs: Costs, runs: Sequence[tuple[int, int]], lookaheads: Sequence[int], *, batch: int = 1, draws: int = 400) -> list[Prediction]:
    """Predictions from recorded drafts.

    Args:
        runs: (drafted, stood) of each draft, recorded with a lookahead at least as long as those asked about.
        lookaheads: constants k.
        draws: bootstrap samples of the drafts, for the interval.
    Raises:
        BadOption: no drafts.
    """
    if not runs:
        raise BadOption("nothing was drafted, so there is nothing to predict from", next_step="Give prompts on which the drafter finds something")
    most, rng, made = max(lookaheads), random.Random(0), []
    samples = [curve_of(rng.choices(runs, k=len(runs)), most) for _ in range(draws)]
    curve = curve_of(runs, most)
    for k in lookaheads:
        tokens, ratio = speedup(costs, curve, k, batch)
        spread = sorted(speedup(costs, sample, k, batch)[1] for sample in samples)
        made.append(Prediction(k, tokens, ratio, spread[int(0.025 * draws)], spread[int(0.975 * draws)]))
    return made


def curve_of(runs: Sequence[tuple[int, int]], most: int) -> list[float]:
    """Chance that the j-th token of a draft stands, j = 1..most; a draft that ended early or copied less counts as not standing there."""
    return [sum(stood >= j for _, stood in runs) / len(runs) for j in range(1, most + 1)]
