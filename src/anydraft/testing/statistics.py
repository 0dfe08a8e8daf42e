"""Do two samples of short texts come from one law? A permutation test with a known false-alarm rate, and its power.

Plain decoding and speculative decoding are sampled with different seeds from the same prefixes. If both have the same law, which
sample a text is in says nothing; so the labels can be permuted, and the share of permutations with at least the observed distance
is an exact p-value for any distance, whatever the model. Three distances are used, each a sum of Pearson's two-sample chi-square
over prefixes, and Bonferroni's factor keeps the rate of false alarms at the stated one. Power is simulated for the least favourable
change of the first token's law, and the sample size follows from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anydraft.core.errors import BadOption

DISTANCES = ("first token", "joint window", "later tokens")
"""The first token given the prefix; the first two and three tokens jointly; every later token and pair of neighbours."""

CELLS = 12
"""Outcomes that are told apart, the most frequent first; the others are one cell. A permutation test is exact for any such choice
that looks at both samples together."""

Window = tuple[int, ...]
"""The first tokens of one text, at most as many as the test looks at; shorter where the text ended."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of one test."""

    p_value: float  # Bonferroni: the smallest of the three times three, at most 1
    p_values: dict[str, float]
    distances: dict[str, float]  # observed chi-square
    cells: int  # of all tables
    sizes: tuple[int, int]  # texts per prefix in each sample

    def differs(self, false_alarm: float) -> bool:
        """Whether the two samples are told apart at this rate."""
        return self.p_value <= false_alarm


def compare(a: Sequence[Sequence[Window]], b: Sequence[Sequence[Window]], *, false_alarm: float = 1e-3, seed: int = 0) -> Comparison:
    """Tests two samples.

    Args:
        a, b: per prefix, the windows drawn after it; all prefixes of one sample have equally many.
        false_alarm: decides how many permutations are needed to be able to reject.
    Raises:
        BadOption: samples that cannot be compared.

    >>> same = compare([[(1,), (2,)] * 50], [[(1,), (2,)] * 50], false_alarm=0.05)
    >>> other = compare([[(1,)] * 100], [[(2,)] * 100], false_alarm=0.05)
    >>> same.differs(0.05), other.differs(0.05)
    (False, True)
    """
    if len(a) != len(b) or not a or any(not len(x) or not len(y) for x, y in zip(a, b)):
        raise BadOption(
            "the samples do not fit each other", got=f"{len(a)} and {len(b)} prefixes", expected="the same prefixes, some texts for each"
        )
    permutations = math.ceil(3 * len(DISTANCES) / false_alarm)
    rng = np.random.default_rng(seed)
    observed, permuted, cells = np.zeros(len(DISTANCES)), np.zeros((permutations, len(DISTANCES))), 0
    for x, y in zip(a, b):
        for d, tables in enumerate(_tables([*x, *y])):
            labels = np.zeros((1, len(x) + len(y)), np.float32)
            labels[0, : len(x)] = 1
            observed[d] += _chi_square(labels, tables)[0]
            cells += tables.shape[1]
        permuted += _permuted([*x, *y], len(x), permutations, rng)
    # a sum of float32 terms may differ in its last digits from the same sum in another order
    each = {name: (1 + int((permuted[:, d] >= observed[d] * (1 - 1e-5)).sum())) / (permutations + 1) for d, name in enumerate(DISTANCES)}
    return Comparison(
        p_value=min(1.0, len(DISTANCES) * min(each.values())),
        p_values=each,
        distances={name: float(observed[d]) for d, name in enumerate(DISTANCES)},
        cells=cells,
        sizes=(len(a[0]), len(b[0])),
    )


def _permuted(windows: list[Window], first: int, permutations: int, rng: np.random.Generator, chunk: int = 1000) -> np.ndarray:
    """f[permutations, distances]: the same labels for every table, since the tables of one text depend on each other."""
    tables, out = _tables(windows), np.zeros((permutations, len(DISTANCES)))
    for start in range(0, permutations, chunk):
        size = min(chunk, permutations - start)
        order = rng.random((size, len(windows)), dtype=np.float32).argpartition(first - 1, axis=1)[:, :first]
        labels = np.zeros((size, len(windows)), np.float32)
        np.put_along_axis(labels, order, 1.0, axis=1)
        for d, table in enumerate(tables):
            out[start : start + size, d] = _chi_square(labels, table)
    return out


def _tables(windows: list[Window]) -> list[np.ndarray]:
    """Per distance, f32[texts, cells]: which outcome each text has, for every feature side by side."""
    longest = max(map(len, windows))
    first = [[w[:1] for w in windows]]
    joint = [[w[:n] for w in windows] for n in (2, 3) if n <= longest]
    later = [[w[j : j + n] for w in windows] for j in range(1, longest) for n in (1, 2) if j + n <= longest]
    return [np.concatenate([_one_hot(f) for f in features], 1) if features else np.zeros((len(windows), 0), np.float32)
            for features in (first, joint, later)]  # fmt: skip


def _one_hot(outcomes: list[Window]) -> np.ndarray:
    most = [outcome for outcome, count in Counter(outcomes).most_common(CELLS - 1) if count >= 10]
    place = {outcome: n for n, outcome in enumerate(most)}
    table = np.zeros((len(outcomes), len(most) + 1), np.float32)
    table[np.arange(len(outcomes)), [place.get(o, len(most)) for o in outcomes]] = 1
    return table


def _chi_square(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """f[M]: Pearson's statistic of each labelling f32[M, N] over all cells of a table f32[N, C]."""
    if not table.shape[1]:
        return np.zeros(len(labels))
    texts, first = labels.shape[1], float(labels[0].sum())
    total = table.sum(0)
    spread = np.maximum(total * first * (texts - first) / texts**2, 1e-9)
    return (((labels @ table) - total * first / texts) ** 2 / spread).sum(1)


# -- power -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Power:
    """How many texts per prefix, and what that sees."""

    samples: int
    power: float  # probability of an alarm if the first token's law is off by `effect`
    effect: float  # total variation, at every prefix that has room for it
    false_alarm: float


def room(law: np.ndarray) -> float:
    """The largest total variation by which the least favourable change can move this law: the smaller side of its most even split.

    >>> room(np.array([0.5, 0.3, 0.2])), room(np.array([1.0]))
    (0.5, 0.0)
    """
    side = _split(law)
    return float(min(law[side].sum(), law[~side].sum()))


def changed(law: np.ndarray, effect: float) -> np.ndarray:
    """The law at total variation `effect` (or as far as there is room) that a chi-square test sees worst.

    For a given total variation the chi-square distance is least when mass moves in proportion between two halves of probability one half:
    (effect / a + effect / (1 - a)) * effect is smallest at a = 1/2.
    """
    side = _split(law)
    mass = law[side].sum()
    step = min(effect, 0.95 * room(law))
    if step <= 0:
        return law
    return np.where(side, law * (1 - step / mass), law * (1 + step / (1 - mass)))


def power(laws: Sequence[np.ndarray], samples: int, effect: float, false_alarm: float, *, runs: int = 400, seed: int = 0) -> float:
    """The share of simulated experiments in which the first token's distance alone raises an alarm.

    Args:
        laws: per prefix, the exact law f[V] of its first token. samples: texts per prefix in each of the two samples.
    """
    rng = np.random.default_rng(seed)
    pooled = [_pooled(law) for law in laws]
    null = max(20_000, int(20 * len(DISTANCES) / false_alarm))
    quiet = sum(_distance(rng.multinomial(samples, law, null), rng.multinomial(samples, law, null)) for law in pooled)
    limit = np.quantile(quiet, 1 - false_alarm / len(DISTANCES))
    loud = sum(_distance(rng.multinomial(samples, law, runs), rng.multinomial(samples, changed(law, effect), runs)) for law in pooled)
    return float((loud > limit).mean())


def sample_size(laws: Sequence[np.ndarray], effect: float, false_alarm: float, wanted: float = 0.95, most: int = 4096) -> Power:
    """The smallest of a ladder of sample sizes that reaches the wanted power; the largest allowed one where none does."""
    ladder = sorted({min(most, int(32 * 2 ** (n / 2))) for n in range(16)})
    for samples in ladder:
        reached = power(laws, samples, effect, false_alarm)
        if reached >= wanted or samples == ladder[-1]:
            return Power(samples, reached, effect, false_alarm)
    raise AssertionError("the ladder has a last rung")


def _split(law: np.ndarray) -> np.ndarray:
    """bool[V]: one of two sides, as even as taking the largest first makes them."""
    side, mass = np.zeros(len(law), bool), 0.0
    for token in np.argsort(-law):
        if mass + law[token] <= 0.5 + 1e-12:
            side[token], mass = True, mass + law[token]
    if not side.any():
        side[int(law.argmax())] = True
    return side


def _pooled(law: np.ndarray) -> np.ndarray:
    order = np.sort(np.asarray(law, np.float64))[::-1]
    kept = np.append(order[: CELLS - 1], order[CELLS - 1 :].sum())
    return kept / kept.sum()


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f[M] from counts i64[M, C] of two samples of equal size."""
    total = x + y
    return ((x - y) ** 2 / np.maximum(total, 1)).sum(1)
