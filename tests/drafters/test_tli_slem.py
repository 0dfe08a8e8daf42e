"""One run read both ways: exact, and the two orders that are not."""

import dataclasses

import bilingual as toy
import pytest
import torch

from anydraft.core.records import DETERMINED
from anydraft.drafters.tli import TLI
from anydraft.drafters.tli_slem import TLISLEM
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling


@pytest.mark.parametrize("name", toy.COMMON)
@pytest.mark.parametrize("rule", [RecursiveRejection, Match])
def test_law(name, rule):
    assert toy.distance(name, lambda: TLISLEM(**toy.given(name)), rule, k=2) < toy.EXACT


def test_law_to_depth_three():
    assert toy.distance("half", lambda: TLISLEM(**toy.given("half")), RecursiveRejection, k=3, tokens=4) < toy.EXACT


@pytest.mark.parametrize("name", toy.COMMON)
def test_never_accepts_less_than_tli(name):
    both = toy.acceptance(name, lambda: TLISLEM(**toy.given(name)), RecursiveRejection, k=2)
    assert both >= toy.acceptance(name, lambda: TLI(**toy.given(name)), SpeculativeSampling, k=2) - 1e-12


def test_some_branch_exists():
    """The re-encoded reading differs from the sampled one somewhere, or these tests would prove nothing."""

    def gain(name):
        both = toy.acceptance(name, lambda: TLISLEM(**toy.given(name)), RecursiveRejection, k=2)
        return both - toy.acceptance(name, lambda: TLI(**toy.given(name)), SpeculativeSampling, k=2)

    assert max(map(gain, toy.COMMON)) > 0.005


def determined_first(draft):
    """Rows whose re-encoded branch starts at the root, with that branch in front of the samples it was computed from."""
    sampled = int((draft.source[0] == 1).sum())
    extra = draft.nodes - sampled
    columns = {name: getattr(draft, name).clone() for name in ("tokens", "parent", "live", "kind", "index", "source")}
    order = torch.tensor([*range(sampled, draft.nodes), *range(sampled)])
    new = torch.argsort(order)
    for b in range(len(draft.tokens)):
        if extra and bool(draft.live[b, sampled]) and int(draft.parent[b, sampled]) < 0:
            for name, column in columns.items():
                column[b] = getattr(draft, name)[b, order]
            above = columns["parent"][b]
            columns["parent"][b] = torch.where(above < 0, -1, new[above.clamp_min(0)])
    return dataclasses.replace(draft, **columns)


def test_determined_first_is_caught():
    class Mutant(TLISLEM):
        def propose(self, context, size, noise):
            draft = super().propose(context, size, noise)
            return determined_first(draft) if draft.nodes else draft

    worst = max(toy.distance(name, lambda name=name: Mutant(**toy.given(name)), RecursiveRejection, k=2) for name in ("half", "a quarter"))
    assert worst > 1e-4


def test_a_child_before_the_sample_it_depends_on_is_caught():
    """A second sample's reading as a determined node in front of that sample."""

    class Mutant(TLI):
        kinds = ("independent", "determined")
        chain = False

        def propose(self, context, size, noise):
            draft = super().propose(context, size, noise)
            if draft.nodes < 2:
                return draft
            order = torch.tensor([0, 1, 1])
            columns = {name: getattr(draft, name)[:, order].clone() for name in ("tokens", "live", "kind", "index")}
            columns["tokens"][:, 1] = (draft.tokens[:, 1] + 1) % self.shared.vocab_size
            columns["kind"][:, 1], columns["index"][:, 1] = DETERMINED, -1
            parent = torch.tensor([-1, 0, 0]).expand(len(draft.tokens), -1)
            return dataclasses.replace(draft, parent=parent, levels=2, chain=False, **columns)

    assert toy.distance("half", lambda: Mutant(**toy.given("half")), RecursiveRejection, k=2) > 1e-4
