"""Moving part of a drafter's mass onto target tokens that it cannot propose itself.

Source: redistributing drafter kernels, arXiv:2506.03206. The paper's dense form is q'' = M^T q', M the row softmax of the covariance of target laws
over tau. Its linear-time expression was not available to us; the linear forms here are our derivation and keep its cost, O(V).

Whatever form is used, the law that is sampled is the law that the rule is handed, normalised, so that none of them can bias the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anydraft.core.errors import BadOption
from anydraft.core.law import Law, _picked, quantile

Redistribute = Callable[[Tensor], Tensor]  # f[B, V] -> f[B, V], normalised rows


def prior(mean: Tensor, missing: Tensor | None = None) -> Redistribute:
    """Every row becomes the target's mean law, on the missing tokens alone if there are any.

    Args:
        mean: f[V]. missing: bool[V] the tokens that the drafter cannot propose; None: no restriction.
    """
    law = mean.double() if missing is None else torch.where(missing, mean.double(), 0.0)
    law = law if float(law.sum()) > 0 else mean.double()
    law = law / law.sum()
    return lambda q: law.to(q).expand_as(q)


def first_order(mean: Tensor, tau: float) -> Redistribute:
    """The softmax to first order in Omega / tau, with the covariance of one draw, diag(mu) - mu mu^T: linear in V, clamped at 0 and normalised."""
    mu = mean.double()

    def apply(q: Tensor) -> Tensor:
        m = mu.to(q)
        moved = (1 + (m * q - m * (q @ m)[:, None]) / tau).clamp_min(0)
        return moved / moved.sum(-1, keepdim=True)

    return apply


def dense(covariance: Tensor, tau: float) -> Redistribute:
    """The paper's definition: q'' = M^T q' with M the row softmax of covariance f[V, V] / tau. O(V^2): a reference for small V."""
    kernel = (covariance.double() / tau).softmax(-1)
    return lambda q: q @ kernel.to(q)


def one_draw_covariance(mean: Tensor) -> Tensor:
    """f64[V, V]: covariance of a one-hot draw from the mean law."""
    mu = mean.double()
    return torch.diag(mu) - mu[:, None] * mu[None]


FORMS = ("prior", "first_order", "dense")


def redistribution(form: str, mean: Tensor, missing: Tensor, tau: float) -> Redistribute:
    """One of FORMS from the target's mean law f[V] and the tokens bool[V] that the drafter lacks.

    Raises:
        BadOption: another form, tau that is not positive, or a dense kernel over more than 8,192 tokens.
    """
    if form not in FORMS:
        raise BadOption("there is no such form of redistribution", got=form, expected="one of " + ", ".join(FORMS))
    if not tau > 0:
        raise BadOption("tau is not usable", got=tau, expected="a number > 0")
    if form == "dense" and len(mean) > 8192:
        raise BadOption(
            "a dense kernel is a reference for small vocabularies",
            got=f"{len(mean)} tokens",
            expected="at most 8192",
            next_step="Use 'prior'",
        )
    if form == "prior":
        return prior(mean, missing)
    return first_order(mean, tau) if form == "first_order" else dense(one_draw_covariance(mean), tau)


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Laws (1 - weight) q' + weight s(q'): made when a row is asked for, from the same numbers every time."""

    inner: Law  # q', over the target's tokens
    moved: tuple[Redistribute, ...]  # of each request
    weight: Tensor  # f64[B] in [0, 1]; 0 leaves q' as it is, bit for bit

    @property
    def width(self) -> int:
        """V."""
        return self.inner.width

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`."""
        q = self.inner.rows(index)
        if not bool((self.weight > 0).any()):
            return q
        share = self.weight.to(q)[:, None]
        return (1 - share) * q + share * torch.cat([move(q[b : b + 1]) for b, move in enumerate(self.moved)])

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`."""
        return _picked(self.rows(index), token)

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        return quantile(self.rows(index), uniform, empty=empty)


class MixingWeight:
    """The weight of one request, tuned on the positions that were judged.

    Acceptance at weight w is sum min(p, (1 - w) q' + w s), concave in w, so a coarse grid finds the top. Weight 0 is on the grid and wins ties
    and near ties: redistribution that does not help is switched off.
    """

    GRID = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
    GAIN = 1.005  # least relative gain in acceptance for which the extra work is worth while

    def __init__(self, decay: float = 0.97):
        self.decay = decay
        self.sums = torch.zeros(len(self.GRID), dtype=torch.float64)
        self.weight = 0.0

    def learn(self, p: Tensor, q: Tensor, s: Tensor) -> None:
        """Rows f[M, V] of judged positions: the target's law, the drafter's, and where its mass would be moved to."""
        accepted = torch.stack([torch.minimum(p, (1 - w) * q + w * s).sum(-1).mean() for w in self.GRID]).double().cpu()
        self.sums = self.decay * self.sums + accepted
        best = int(self.sums.argmax())
        self.weight = self.GRID[best] if float(self.sums[best]) > self.GAIN * float(self.sums[0]) else 0.0
