"""RDK: exact in every form, TLI bit for bit at weight 0, better than it where its condition says so."""

from dataclasses import replace

import bilingual as toy
import pytest
import torch

from anydraft.control.fixed import Fixed
from anydraft.core.errors import BadOption
from anydraft.core.law import Dense
from anydraft.core.noise import Keyed
from anydraft.drafters.rdk import RDK
from anydraft.drafters.tli import TLI
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import run
from anydraft.vocabulary import redistribution as r

NAMES = ["a quarter", "half", "all, in another order", "with ends"]


def rdk(name, **options):
    mean = torch.arange(1.0, len(toy.PAIRS[name][0]) + 1)
    return RDK(**toy.given(name), **({"statistics": mean} | options))


@pytest.mark.parametrize("form", r.FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_law(name, form):
    make = lambda: rdk(name, redistribution_form=form, mixing_weight=0.4, tau=0.05)  # noqa: E731
    assert toy.distance(name, make, SpeculativeSampling) < toy.EXACT


@pytest.mark.parametrize("name", ["half", "with ends"])
def test_law_while_the_weight_is_tuned(name):
    assert toy.distance(name, lambda: rdk(name), BlockVerification, k=1, tokens=4) < toy.EXACT


def test_law_with_a_pruned_head():
    assert toy.distance("half", lambda: rdk("half", keep_share=0.01, mixing_weight=0.3), SpeculativeSampling) < toy.EXACT


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_tli(name):
    requests = [toy.ask(name, tokens=30, seed=seed) for seed in range(8)]
    outputs = [run((toy.target_of(name), make(), SpeculativeSampling(), Fixed(2)), requests, Keyed())
               for make in (lambda: rdk(name, mixing_weight=0.0), lambda: TLI(**toy.given(name)))]
    assert outputs[0] == outputs[1]
    q = torch.rand(3, 5, dtype=torch.float64)
    law = r.Mixture(Dense(q[:, None]), (r.prior(torch.ones(5)),) * 3, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(law.rows(0), q)


@pytest.mark.parametrize("seed", range(20))
def test_gain_condition(seed):
    """The slope of acceptance at weight 0 is s(U) - q'(U), with U the tokens that the drafter under-covers."""
    g = torch.Generator().manual_seed(seed)
    p, q, s = (torch.rand(12, generator=g, dtype=torch.float64) for _ in range(3))
    q[::3] = 0
    p, q, s = p / p.sum(), q / q.sum(), s / s.sum()
    accept = lambda w: float(torch.minimum(p, (1 - w) * q + w * s).sum())  # noqa: E731
    under = q < p
    slope = float(s[under].sum() - q[under].sum())
    assert (accept(1e-7) - accept(0)) / 1e-7 == pytest.approx(slope, abs=1e-6)
    for a, b in ((0.0, 0.4), (0.2, 0.9)):  # concave
        assert accept((a + b) / 2) >= (accept(a) + accept(b)) / 2 - 1e-12


def moved_by_hand(form, q, mean, missing, tau):
    """Where a row's mass goes, from the definitions alone."""
    if form == "prior":
        law = torch.where(missing, mean, 0.0) if bool(missing.any()) else mean
        return law / law.sum()
    if form == "first_order":
        raw = (1 + (mean * q - mean * (mean @ q)) / tau).clamp_min(0)
        return raw / raw.sum()
    omega = torch.diag(mean) - torch.outer(mean, mean)
    kernel = torch.stack([torch.exp(row / tau) / torch.exp(row / tau).sum() for row in omega])
    return kernel.T @ q


@pytest.mark.parametrize("form", r.FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_acceptance_and_its_slope_are_the_formulas(name, form):
    """The production loop accepts sum min(p, (1 - w) q' + w s), and gains from a little redistribution by s(U) - q'(U)."""
    p, q = toy.laws(name)
    both, tau = toy.aligner(name).intersection, 0.05
    shared, missing = torch.zeros_like(p), torch.ones(len(p), dtype=torch.bool)
    shared[both.target_ids] = q[both.drafter_ids] / q[both.drafter_ids].sum()
    missing[both.target_ids] = False
    mean = torch.arange(1.0, len(p) + 1).double()
    s = moved_by_hand(form, shared, mean / mean.sum(), missing, tau)

    def got(weight):
        make = lambda: rdk(name, redistribution_form=form, mixing_weight=weight, tau=tau)  # noqa: E731
        return toy.acceptance(name, make, SpeculativeSampling)

    for weight in (0.0, 0.3, 1.0):
        assert got(weight) == pytest.approx(float(torch.minimum(p, (1 - weight) * shared + weight * s).sum()), abs=1e-9)
    under = shared < p
    assert (got(1e-4) - got(0.0)) / 1e-4 == pytest.approx(float(s[under].sum() - shared[under].sum()), abs=1e-6)


def test_first_order_follows_the_dense_form():
    g = torch.Generator().manual_seed(0)
    mean, q = (torch.rand(20, generator=g, dtype=torch.float64) for _ in range(2))
    mean, q = mean / mean.sum(), (q / q.sum())[None]
    omega = r.one_draw_covariance(mean)
    assert torch.allclose(omega.sum(1), torch.zeros(20, dtype=torch.float64), atol=1e-15)
    gaps = [float((r.dense(omega, tau)(q) - r.first_order(mean, tau)(q)).abs().sum()) for tau in (1.0, 0.1, 0.01)]
    assert gaps[0] < gaps[1] < gaps[2] and gaps[0] < 1e-3


def test_the_tuned_weight_helps_or_is_off():
    missing = torch.tensor([False, False, True, True])
    helps, hurts = r.MixingWeight(), r.MixingWeight()
    q = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    s = r.prior(torch.tensor([1.0, 1, 1, 1]), missing)(q)
    helps.learn(torch.full((1, 4), 0.25, dtype=torch.float64), q, s)
    hurts.learn(torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64), q, s)
    assert helps.weight > 0.3 and hurts.weight == 0.0


@pytest.mark.parametrize("broken", ["unnormalised", "clamped, judged unclamped"])
def test_mutants_are_caught(broken, monkeypatch):
    name = "half"

    def wrong(form, mean, missing, tau):
        drawn = r.first_order(mean, 0.01)
        if broken == "unnormalised":
            return lambda q: 1.4 * drawn(q)
        calls = {"n": 0}

        def apply(q):  # drawn from one law, judged by another
            calls["n"] += 1
            moved = drawn(q)
            return moved if calls["n"] % 2 else (moved - 0.1).clamp_min(0)

        return apply

    monkeypatch.setattr("anydraft.drafters.rdk.redistribution", wrong)
    assert toy.distance(name, lambda: rdk(name, mixing_weight=0.5), SpeculativeSampling) > 1e-4


def test_bad_options():
    with pytest.raises(BadOption, match="mixing_weight"):
        rdk("half", mixing_weight=2.0)
    with pytest.raises(BadOption, match="form"):
        rdk("half", redistribution_form="magic")
    with pytest.raises(BadOption, match="calibrate"):
        RDK(**toy.given("half"), keep_share=0.5)


def test_learning_makes_each_law_once_for_the_whole_batch():
    """What a step's laws cost must not grow with the square of the batch."""
    calls = []

    class Counted:
        def __init__(self, law):
            self.law = law

        def rows(self, index):
            calls[-1] += 1
            return self.law.rows(index)

    class Watched(RDK):
        def keep(self, step):
            calls.append(0)
            super().keep(replace(step, scores=replace(step.scores, law=Counted(step.scores.law))))

    requests = [toy.ask("half", tokens=12, seed=seed) for seed in range(8)]
    mean = torch.arange(1.0, len(toy.PAIRS["half"][0]) + 1)
    run((toy.target_of("half"), Watched(**toy.given("half"), statistics=mean), SpeculativeSampling(), Fixed(2)), requests, Keyed())
    assert 0 < max(calls) <= 2  # one for each level that was judged
