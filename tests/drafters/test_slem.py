"""SLEM: exact whatever the candidates are, on any pair of vocabularies and from text-only drafters."""

import bilingual as toy
import pytest
import torch

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.drafters.slem import SLEM
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import exact_law, plain_law, run, total_variation


def slem(name):
    made = toy.given(name)
    return SLEM(made["model"], made["aligner"])


@pytest.mark.parametrize("rule", [Match, SpeculativeSampling, RecursiveRejection])
@pytest.mark.parametrize("name", list(toy.PAIRS))
def test_law(name, rule):
    assert toy.distance(name, lambda: slem(name), rule) < toy.EXACT


@pytest.mark.parametrize("name", list(toy.PAIRS))
def test_acceptance_is_the_papers_sum(name):
    """sum of p(t) psi(t), psi by running every draft of two tokens through the aligner."""
    p, _ = toy.laws(name)
    both, model, prompt = toy.aligner(name), toy.drafter_of(name), [0, 1]
    own = both.start(prompt).drafter_ids
    psi = torch.zeros_like(p)
    for d1, q1 in enumerate(model.logits(own).softmax(-1).tolist()):
        for d2, q2 in enumerate(model.logits([*own, d1]).softmax(-1).tolist()):
            found = both.candidates(both.start(prompt), [d1, d2])
            if found:
                psi[found[0]] += q1 * q2
    got = toy.acceptance(name, lambda: slem(name), Match, k=2)
    assert got == pytest.approx(float((p * psi).sum()), abs=1e-9)


def test_greedy_identity_with_a_text_drafter():
    """A drafter that yields nothing but text, right, wrong or broken, never changes the output."""
    name, request = "half", toy.ask("half", tokens=12, temperature=0.0)
    plain = run((toy.target_of(name), slem(name), Match(), Fixed(0)), [request], Keyed())

    class Says:
        def __init__(self, text):
            self.text = text

        def continue_text(self, text, max_tokens):
            return self.text

    for text in ("", "aab", "bbbb" * 10, "\ufffd", "zzz", "a\ufffdb"):
        drafter = SLEM(Says(text), toy.aligner(name))
        assert run((toy.target_of(name), drafter, Match(), Fixed(4)), [toy.ask(name, tokens=12, temperature=0.0)], Keyed()) == plain


def test_random_candidates_stay_exact():
    """An adversary in place of the aligner: random ids of random length."""

    class Adversary:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, verb):
            return getattr(self.inner, verb)

        def candidates(self, state, drafted, limit=None):
            return [(7 * len(state.target_ids) + 3 * i + sum(drafted)) % 4 for i in range(min(limit, sum(drafted) % 3))]

    name = "half"
    made = toy.given(name)
    law = exact_law(lambda: (toy.target_of(name), SLEM(toy.drafter_of(name), Adversary(made["aligner"])), Match(), Fixed(2)), toy.ask(name))
    assert total_variation(law, plain_law(lambda: toy.target_of(name), toy.ask(name))) < toy.EXACT


def test_a_batch_is_its_rows():
    name = "half"
    requests = [toy.ask(name, tokens=n, temperature=1.0, seed=n) for n in (3, 7, 11)]
    alone = [run((toy.target_of(name), slem(name), Match(), Fixed(3)), [r], Keyed())[0] for r in requests]
    assert run((toy.target_of(name), slem(name), Match(), Fixed(3)), requests, Keyed()) == alone
