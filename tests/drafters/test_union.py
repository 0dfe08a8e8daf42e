"""The union baseline: exact, sub-laws and all, and as poor as its formula says."""

import bilingual as toy
import pytest
import torch

from anydraft.drafters.union import Union
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling


@pytest.mark.parametrize("rule", [SpeculativeSampling, BlockVerification, RecursiveRejection])
@pytest.mark.parametrize("name", list(toy.PAIRS))
def test_law(name, rule):
    assert toy.distance(name, lambda: Union(**toy.given(name)), rule) < toy.EXACT


@pytest.mark.parametrize("name", toy.COMMON)
def test_acceptance_is_the_papers_sum(name):
    p, q = toy.laws(name)
    both = toy.aligner(name).intersection
    expected = float(torch.minimum(p[both.target_ids], q[both.drafter_ids]).sum())
    assert toy.acceptance(name, lambda: Union(**toy.given(name)), SpeculativeSampling) == pytest.approx(expected, abs=1e-9)


def test_padding_an_empty_draw_is_caught():
    """An empty draw whose law is not subtracted: the reference gives 0.13 for its toy; here it is caught whatever it is."""

    class Mutant(Union):
        def propose(self, context, size, noise):
            import dataclasses

            draft = super().propose(context, size, noise)
            return dataclasses.replace(draft, live=draft.live & (draft.tokens >= 0)) if draft.nodes else draft

    assert toy.distance("half", lambda: Mutant(**toy.given("half")), SpeculativeSampling) > 1e-3
