"""TLI: exact for every overlap, and as good as its formula says."""

import bilingual as toy
import pytest
import torch

from anydraft.core.errors import WrongVocabulary
from anydraft.drafters.tli import TLI
from anydraft.drafters.union import Union
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling

RULES = [SpeculativeSampling, BlockVerification, RecursiveRejection, Match]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", toy.COMMON)
def test_law(name, rule):
    assert toy.distance(name, lambda: TLI(**toy.given(name)), rule) < toy.EXACT


@pytest.mark.parametrize("name", toy.COMMON)
def test_law_with_truncation_and_a_hotter_drafter(name):
    options = {"temperature": 0.7, "top_k": 3, "draft_temperature": 1.5, "repetition_penalty": 1.3}
    assert toy.distance(name, lambda: TLI(**toy.given(name)), SpeculativeSampling, **options) < toy.EXACT


@pytest.mark.parametrize("name", toy.COMMON)
def test_acceptance_is_the_papers_sum(name):
    p, q = toy.laws(name)
    both = toy.aligner(name).intersection
    shared = torch.zeros_like(p)
    shared[both.target_ids] = q[both.drafter_ids] / q[both.drafter_ids].sum()
    got = toy.acceptance(name, lambda: TLI(**toy.given(name)), SpeculativeSampling)
    assert got == pytest.approx(float(torch.minimum(p, shared).sum()), abs=1e-9)
    assert got >= toy.acceptance(name, lambda: Union(**toy.given(name)), SpeculativeSampling) - 1e-12


def test_nothing_in_common_is_refused_with_a_way_out():
    with pytest.raises(WrongVocabulary, match="slem"):
        TLI(**toy.given("none in common"))


def test_a_wrong_normalisation_is_caught():
    """Union's draws judged as if they were renormalised: the law that is handed over is not the one that was drawn from."""

    class Mutant(Union):
        def propose(self, context, size, noise):
            import dataclasses

            from anydraft.core.law import Dense

            draft = super().propose(context, size, noise)
            if not draft.nodes:
                return draft
            probs = draft.law.probs
            return dataclasses.replace(draft, law=Dense(probs / probs.sum(-1, keepdim=True).clamp_min(1e-12)))

    assert toy.distance("half", lambda: Mutant(**toy.given("half")), SpeculativeSampling) > 1e-3
