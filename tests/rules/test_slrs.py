"""The rule of string-level rejection sampling: exact whatever the cap, and asking for no more of q than it must."""

from types import SimpleNamespace

import pytest
import torch
from toys import EXACT, Nosy, StubbornlyNosy, Trees, V, ask, distance, target

from anydraft.control.fixed import Fixed
from anydraft.core.errors import BadOption
from anydraft.core.law import Dense
from anydraft.core.noise import KeyedNoise
from anydraft.core.records import INDEPENDENT, Draft
from anydraft.drafters.draft_model import DraftModel
from anydraft.rules.slrs import SLRS

DRAFTS = {
    "a chain": lambda: DraftModel(target(2), V),
    "a chain of both": lambda: Trees([-1, 0, 1], ["independent", "determined", "independent"]),
    "a chain with holes": lambda: Trees([-1, 0], ["independent"] * 2, holes=0.3),
    "points": lambda: Trees([-1, 0], ["determined"] * 2),
}


@pytest.mark.proof
@pytest.mark.parametrize("cap", [0, 1, 2])
@pytest.mark.parametrize("name", DRAFTS)
def test_the_law_is_kept(name, cap):
    request = {0: ask(4), 1: ask(3), 2: ask(3, top_k=2)}[cap]  # with every retry the runs multiply
    assert distance(lambda: (target(1), DRAFTS[name](), SLRS(cap), Fixed(2)), request) < EXACT


@pytest.mark.proof
@pytest.mark.parametrize("control", [Nosy, StubbornlyNosy])
def test_the_law_is_kept_under_a_control_that_looks_at_everything(control):
    assert distance(lambda: (target(1), DRAFTS["a chain with holes"](), SLRS(1), control(2)), ask(3)) < EXACT


@pytest.mark.proof
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 2}, {"temperature": 0.0, "draft_temperature": 1.0}])
def test_the_law_is_kept_under_other_options(options):
    assert distance(lambda: (target(1), DRAFTS["a chain"](), SLRS(2), Fixed(2)), ask(4, **options)) < EXACT


class FromPOnAGap(SLRS):
    """Planted: an empty draw is treated as no draft at all."""

    def _recovered(self, draft, node, law, refused, noise):
        empty = draft.tokens.gather(1, node[:, None]).squeeze(1) < 0
        return super()._recovered(draft, node, law, refused & ~empty, noise)


class KeepsTheShare(SLRS):
    """Planted: a drawn token is kept with probability q/p, the complement of what is right."""

    def _recovered(self, draft, node, law, refused, noise):
        turned = SimpleNamespace(bernoulli=lambda p, *rest: noise.bernoulli(1 - p, *rest), categorical=noise.categorical)
        return super()._recovered(draft, node, law, refused, turned)


class KeepsTheLast(SLRS):
    """Planted: when the cap is reached the last drawn token is taken, instead of the residual."""

    def _recovered(self, draft, node, law, refused, noise):
        token, _ = super()._recovered(draft, node, law, refused, noise)
        return token, law


@pytest.mark.proof
@pytest.mark.parametrize("planted, least", [(FromPOnAGap, 0.02), (KeepsTheShare, 0.02), (KeepsTheLast, 0.005)])
def test_planted_mistakes_are_seen(planted, least):
    assert distance(lambda: (target(1), DRAFTS["a chain with holes"](), planted(1), Fixed(2)), ask(3)) > least


class Counting:
    """A law that says what was asked of it; `rows` is refused, as it would be too dear."""

    def __init__(self, probs):
        self.inner, self.width, self.asked = Dense(probs), probs.shape[-1], []

    def at(self, index, token):
        self.asked += [(b, t) for b, t in enumerate(token.tolist()) if t >= 0]
        return self.inner.at(index, token)

    def rows(self, index):
        raise AssertionError("all of q was asked for")

    def among(self, index, wanted):
        self.asked += [(b, t) for b, t in wanted.nonzero().tolist()]
        return torch.where(wanted, self.inner.rows(index), 0)


def judged(p, q, tokens, rule, seeds):
    """Verdicts of a batch of one-node drafts with the same p f[V] and q f[V], and the law that was asked."""
    batch = len(tokens)
    law = Counting(q.expand(batch, 1, -1))
    ids = torch.tensor(tokens)[:, None]
    draft = Draft(
        tokens=ids, parent=torch.full_like(ids, -1), live=torch.ones_like(ids, dtype=torch.bool), kind=torch.full_like(ids, INDEPENDENT),
        index=torch.zeros_like(ids), law=law, levels=1,
    )  # fmt: skip
    scores = SimpleNamespace(law=Dense(p.expand(batch, 2, -1)), logits=torch.zeros(batch, 2, p.shape[-1]))
    seed = torch.arange(seeds, seeds + batch).numpy()
    return rule.verify(draft, scores, KeyedNoise(seed, 0 * seed, 0 * seed)), law


def test_a_certain_law_asks_nothing_of_q():
    """Greedy decoding: the token is the target's or it is not."""
    p, q = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.3, 0.3, 0.4])
    verdict, law = judged(p, q, [0, 1, 2, -1], SLRS(), 0)
    assert verdict.count.tolist() == [0, 1, 0, 0] and verdict.token.tolist() == [1, 1, 1, 1]
    assert law.asked == []


def test_rows_of_the_law_are_not_asked_for_within_the_cap():
    p, q = torch.tensor([0.5, 0.25, 0.25, 0.0]), torch.tensor([0.1, 0.4, 0.3, 0.2])
    verdict, law = judged(p, q, [1] * 4000, SLRS(64), 7)
    refused = verdict.count == 0
    assert abs(float(refused.double().mean()) - (1 - 0.25 / 0.4)) < 0.03
    assert set(verdict.token[refused].tolist()) == {0}  # all that q leaves of p
    # after a rejection 1 / P(kept) draws on average: p keeps token 0 with probability 1 - 0.1 / 0.5
    retries = len(law.asked) - 4000
    assert abs(retries / int(refused.sum()) - 1 / (0.5 * 0.8)) < 0.15


def test_after_the_cap_only_the_support_of_p_is_asked_for():
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.1, 0.6, 0.2, 0.1])
    verdict, law = judged(p, q, [2, 3, -1], SLRS(0), 3)
    assert verdict.token.tolist() == [0, 0, 0]
    assert {t for _, t in law.asked} == {0, 1}


def test_a_cap_below_zero_is_refused():
    with pytest.raises(BadOption, match="cap"):
        SLRS(-1)
