"""SLEM: exact whatever the candidates are, on any pair of vocabularies and from text-only drafters."""

import bilingual as toy
import pytest
import torch

from anydraft import Speculator, zoo
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


@pytest.mark.parametrize("draft_temperature", [None, 1.0])
@pytest.mark.parametrize("rule", [Match, SpeculativeSampling, RecursiveRejection])
@pytest.mark.parametrize("name", list(toy.PAIRS))
def test_law(name, rule, draft_temperature):
    assert toy.distance(name, lambda: slem(name), rule, draft_temperature=draft_temperature) < toy.EXACT


@pytest.mark.parametrize("draft_temperature", [None, 1.0])
@pytest.mark.parametrize("name", list(toy.PAIRS))
def test_acceptance_is_the_papers_sum(name, draft_temperature):
    """sum of p(t) psi(t), psi by running every draft of two tokens through the aligner; drafted greedily unless it is asked to sample."""
    p, _ = toy.laws(name)
    both, model, prompt = toy.aligner(name), toy.drafter_of(name), [0, 1]
    own = both.start(prompt).drafter_ids
    psi = torch.zeros_like(p)

    def law(ids):
        logits = model.logits(ids)
        return (logits.softmax(-1) if draft_temperature else (logits == logits.max()).double()).tolist()

    for d1, q1 in enumerate(law(own)):
        for d2, q2 in enumerate(law([*own, d1])):
            found = both.candidates(both.start(prompt), [d1, d2])
            if found:
                psi[found[0]] += q1 * q2
    got = toy.acceptance(name, lambda: slem(name), Match, k=2, draft_temperature=draft_temperature)
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


class Parrot:
    """A drafter of words: repeats what it was told last, cut at some length, and notes what it was given."""

    def __init__(self):
        self.given = []

    def continue_text(self, text, max_tokens):
        self.given.append(text)
        return text[-max_tokens:]


@pytest.mark.parametrize("rule", [Match, SpeculativeSampling])
@pytest.mark.parametrize("name", list(toy.PAIRS))
def test_law_with_a_text_drafter(name, rule):
    assert toy.distance(name, lambda: SLEM(Parrot(), toy.aligner(name)), rule, tokens=4) < toy.EXACT


def test_a_function_drafts_for_whoever_has_only_that():
    """Through the facade: greedy, sampled with the seed's very tokens, in a batch, streamed and stopped; and it is told the text so far."""
    parrot = Parrot()
    target = str(zoo.path("target"))
    plain = Speculator.from_pretrained(target, method="none")
    ours = Speculator(plain.model, plain.tokenizer, lambda text, most: parrot.continue_text(text, most), method="slem", num_assistant_tokens=6)
    prompts = ["for i in range(10):\n    for i in", "# naïve 你好 naïve 你", "x = [1, 1, 1, 1,"]
    for options in ({}, {"temperature": 0.8, "seed": [4, 5, 6]}, {"stop_strings": ["1"]}):
        want = [g.token_ids for g in plain.generate(prompts, max_new_tokens=12, **options)]
        assert [g.token_ids for g in ours.generate(prompts, max_new_tokens=12, **options)] == want
    parrot.given.clear()
    pieces = list(ours.stream(prompts[1], max_new_tokens=12))
    assert parrot.given[0] == prompts[1] and parrot.given == sorted(parrot.given, key=len)
    said = prompts[1] + "".join(piece.text for piece in pieces)
    assert all(said.startswith(text) for text in parrot.given) and len(parrot.given) > 2


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
