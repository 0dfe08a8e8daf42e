"""Rows of docs/pitfalls.md that are about laws: shown on toys whose every run is enumerated, most of them with the mistake itself as a control."""

import dataclasses

import bilingual as toy
import pytest
import torch

from anydraft.control.fixed import Fixed
from anydraft.control.heuristic import Heuristic
from anydraft.core.law import Dense, Point
from anydraft.core.noise import Keyed
from anydraft.core.processors import drafting_law
from anydraft.core.records import DETERMINED, Request
from anydraft.core.rollout import determined_chain
from anydraft.drafters.fr_spec import FRSpec
from anydraft.drafters.rdk import RDK
from anydraft.drafters.slem import SLEM
from anydraft.drafters.tli import TLI
from anydraft.drafters.tli_slem import TLISLEM
from anydraft.drafters.union import Union
from anydraft.engine.table import TableModel
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing import planted
from anydraft.testing.exact import exact_law, plain_law, run, total_variation
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection

SEEN = 1e-3
NAMES = ["half", "with ends"]
PARTS = {
    "tli": (TLI, SpeculativeSampling),
    "union": (Union, SpeculativeSampling),
    "slem": (lambda model, aligner, vocab_size: SLEM(model, aligner), Match),
    "tli_slem": (TLISLEM, RecursiveRejection),
    "rdk": (lambda **given: RDK(**given, statistics=torch.arange(1.0, given["vocab_size"] + 1), mixing_weight=0.3), SpeculativeSampling),
}


def both_exact(name, drafter="tli", **options):
    make, rule = PARTS[drafter]
    return toy.distance(name, lambda: make(**toy.given(name)), rule, **options)


# 14, 15: the law that is handed to the rule


@pytest.mark.parametrize("plant", ["argmax_as_sampled", "unprocessed_proposal"])
def test_pitfall_14_a_law_that_was_not_drawn_from_is_seen(plant):
    """The first two biased rows of the reference's table, around the real drafter."""
    wrong = planted.get(plant)
    options = {"temperature": 0.7, "top_k": 2} if plant == "unprocessed_proposal" else {}
    name = "all, in another order"
    assert toy.distance(name, lambda: wrong.make(TLI(**toy.given(name))), SpeculativeSampling, **options) > SEEN


def test_pitfall_14_a_row_of_the_level_before_is_seen():
    class Stale(TLI):
        def propose(self, context, size, noise):
            draft = super().propose(context, size, noise)
            return dataclasses.replace(draft, index=(draft.index - 1).clamp_min(0)) if draft.nodes else draft

    assert toy.distance("half", lambda: Stale(**toy.given("half")), SpeculativeSampling) > SEEN
    assert both_exact("half") < toy.EXACT


@pytest.mark.parametrize("name", NAMES)
def test_pitfall_15_sampled_drafts_are_judged_by_their_law_and_not_as_points(name):
    p, q = toy.laws(name)
    both = toy.aligner(name).intersection
    shared = torch.zeros_like(p)
    shared[both.target_ids] = q[both.drafter_ids] / q[both.drafter_ids].sum()

    class AsPoints(TLI):
        def propose(self, context, size, noise):
            draft = super().propose(context, size, noise)
            return dataclasses.replace(draft, kind=torch.full_like(draft.kind, DETERMINED), index=torch.full_like(draft.index, -1), law=None)

    measured = toy.acceptance(name, lambda: TLI(**toy.given(name)), SpeculativeSampling)
    assert measured == pytest.approx(float(torch.minimum(p, shared).sum()), abs=toy.EXACT)
    dropped = toy.acceptance(name, lambda: AsPoints(**toy.given(name)), SpeculativeSampling)
    assert dropped == pytest.approx(float((p * shared).sum()), abs=toy.EXACT) and dropped < measured - 0.05


# 16: numbers at their ends


@pytest.mark.parametrize("drafter", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_pitfall_16_impossible_and_certain_tokens(name, drafter):
    """-inf on either side, and logits of 1e4 beside -1e4."""
    make, rule = PARTS[drafter]
    bias = [torch.zeros(len(table), dtype=torch.float64) for table in toy.PAIRS[name]]
    bias[0][0], bias[1][1] = -torch.inf, -torch.inf
    for scale in (1.0, 1e4):
        target = lambda: TableModel(len(bias[0]), seed=1, spread=scale, bias=bias[0])  # noqa: B023,E731
        request = toy.ask(name)
        given = toy.given(name)
        given["model"] = TableModel(len(bias[1]), seed=2, spread=scale, bias=bias[1])
        law = exact_law(lambda: (target(), make(**given), rule(), Fixed(2)), request)  # noqa: B023
        assert total_variation(law, plain_law(target, request)) < toy.EXACT


@pytest.mark.parametrize("drafter", PARTS)
def test_pitfall_16_a_temperature_near_zero_and_at_zero(drafter):
    for temperature in (0.0, 1e-6):
        assert both_exact("with ends", drafter, temperature=temperature) < toy.EXACT


def test_pitfall_16_half_precision_is_cast_once():
    """The law that is drawn from and the law that is recorded are one tensor of float32, whatever the logits were."""
    logits = torch.randn(2, 50).to(torch.bfloat16)
    law = drafting_law(logits, [Request(prompt=torch.tensor([0]), max_new_tokens=1, temperature=0.8)] * 2)
    assert isinstance(law, Dense) and law.probs.dtype == torch.float32
    assert torch.equal(law.rows(0), (logits.float() / 0.8).softmax(-1))


# 17, 18: processors


class Grammar:
    """No token twice in a row, and never token 1 behind an even number of tokens: what is allowed depends on the whole prefix."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, input_ids[0, -1]] = -torch.inf
        if input_ids.shape[1] % 2 == 0 and input_ids[0, -1] != 0:
            scores[:, 1] = -torch.inf
        return scores


PROCESSED = {
    "penalties": {"repetition_penalty": 1.5, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "bias and bans": {"logit_bias": {0: 1.5}, "banned_tokens": (1,)},
}


@pytest.mark.parametrize("drafter", PARTS)
@pytest.mark.parametrize("which", PROCESSED)
def test_pitfall_17_options_in_target_ids_keep_the_law(which, drafter):
    for name in ("half", "all, in another order"):
        assert both_exact(name, drafter, **PROCESSED[which]) < toy.EXACT


@pytest.mark.parametrize("drafter", PARTS)
def test_pitfall_18_each_row_is_processed_with_its_own_prefix(drafter):
    assert both_exact("with ends", drafter, tokens=3, min_new_tokens=2) < toy.EXACT
    assert both_exact("half", drafter, tokens=3, forced_tokens=(2,)) < toy.EXACT
    from transformers import LogitsProcessor

    class InLibrary(Grammar, LogitsProcessor):
        pass

    InLibrary.__module__ = "transformers.made_here"  # of ours, a processor is first watched for state, without drafts
    assert both_exact("half", drafter, tokens=3, logits_processor=(InLibrary(),)) < toy.EXACT


# 19, 22: the end of a text


def test_pitfall_19_an_end_in_the_middle_of_a_draft_ends_the_text():
    name, eos = "with ends", 2

    class EndThenJunk:
        kinds, chain = ("determined",), True

        def propose(self, context, size, noise):
            return determined_chain([[eos, 0, 1]] * context.size)

    target = lambda: TableModel(3, seed=1, bias=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))  # noqa: E731
    request = toy.ask(name, tokens=4)
    law = exact_law(lambda: (target(), EndThenJunk(), Match(), Fixed(3)), request)
    assert all(eos not in output[:-1] for output in law) and any(output[-1] == eos for output in law)
    assert total_variation(law, plain_law(target, request)) < toy.EXACT


@pytest.mark.parametrize("drafter", ["tli", "rdk", "tli_slem", "union"])
def test_pitfall_22_a_column_that_has_the_number_of_an_end_is_no_end(drafter):
    """The first shared token stands in column 0 and has drafter id 2; target id 0 ends the text, and so does drafter id 2's neighbour 3."""
    target = ByteVocabulary.from_table([None, b"x", b"a", b"b"], {0: "eos"})
    own = ByteVocabulary.from_table([b"ab", b"b", b"a", None], {3: "eos"})
    made, rule = PARTS[drafter]
    aligner = Aligner(Intersection.between(target, own, drafter_stops=[], target_stops=[]))
    assert aligner.intersection.target_ids.tolist() == [2, 3]
    request = Request(prompt=torch.tensor([2, 3]), max_new_tokens=3, temperature=1.0, eos=frozenset([0]))
    big, small = (lambda: TableModel(4, seed=5)), (lambda: TableModel(4, seed=6))
    law = exact_law(lambda: (big(), made(model=small(), aligner=aligner, vocab_size=4), rule(), Fixed(2)), request)
    assert total_variation(law, plain_law(big, request)) < toy.EXACT
    assert any(2 in output[:-1] for output in law)  # column 0 did not end a text


# 33, 34: what must not be done for speed or for looks


def test_pitfall_33_dropping_a_doubtful_token_is_seen():
    name, wrong = "all, in another order", planted.get("doubtful_token_dropped")
    assert toy.distance(name, lambda: wrong.make(TLI(**toy.given(name))), SpeculativeSampling) > SEEN


@pytest.mark.parametrize("drafter", PARTS)
def test_pitfall_34_exact_ties_fall_the_same_way_in_every_method(drafter):
    """All logits are equal: plain decoding takes the lowest id, and so must every draft that is accepted or refused."""
    make, rule = PARTS[drafter]
    name = "half"
    request = toy.ask(name, tokens=6, temperature=0.0)
    given = toy.given(name, spread=0.0)
    (ours,) = run((toy.target_of(name, spread=0.0), make(**given), rule(), Fixed(3)), [request], Keyed())
    ((plain, weight),) = plain_law(lambda: toy.target_of(name, spread=0.0), request).items()
    assert ours == plain and weight == 1.0
    assert isinstance(drafting_law(torch.zeros(1, 4), [request]), Point)


# 35, 37: batches


def decode(name, drafter, requests, control=lambda: Fixed(3), traces=None):
    make, rule = PARTS[drafter]
    made = control()
    if traces is not None:
        made = Traced(made, traces)
    seldom = torch.zeros(len(toy.PAIRS[name][0]), dtype=torch.float64)
    seldom[-1] = -2.0  # the end, where there is one
    target = TableModel(len(seldom), seed=1, spread=0.3, bias=seldom)
    return run((target, make(**toy.given(name, spread=0.3)), rule(), made), requests, Keyed())


class Traced:
    """A control whose sizes are written down by request."""

    def __init__(self, inner, traces):
        self.inner, self.traces = inner, traces

    def size(self, context):
        size = self.inner.size(context)
        for request, depth in zip(context.requests, size.depth.tolist()):
            self.traces.setdefault(request.seed, []).append(depth)
        return size

    def keep(self, step):
        self.inner.keep(step)


@pytest.mark.parametrize("drafter", PARTS)
def test_pitfall_35_rows_that_end_at_different_rounds_are_the_rows_alone(drafter):
    requests = [toy.ask("with ends", tokens=n, seed=n) for n in (3, 5, 8, 13, 21, 34)]
    together = decode("with ends", drafter, requests)
    assert together == [decode("with ends", drafter, [request])[0] for request in requests]
    assert len({len(output) for output in together}) > 2


@pytest.mark.parametrize("drafter", ["tli", "slem"])
def test_pitfall_37_lookahead_is_each_requests_own(drafter):
    name = "all, in another order"
    requests = [toy.ask(name, tokens=n, seed=n) for n in (16, 24, 40)]
    together, alone = {}, {}
    decode(name, drafter, requests, Heuristic, together)
    for request in requests:
        decode(name, drafter, [request], Heuristic, alone)
    assert together == alone
    assert len({tuple(trace[:6]) for trace in together.values()}) > 1  # they did adapt, each in its way


def test_pitfall_21_two_drafters_with_one_vocabulary_do_not_share_what_is_pruned():
    name, kept = "half", torch.tensor([0.0, 0.0, 1.0, 1.0])
    aligner = toy.aligner(name)
    full, pruned = (
        make(model=toy.drafter_of(name, seed=seed), aligner=aligner, vocab_size=4, **options)
        for make, seed, options in ((TLI, 2, {}), (FRSpec, 3, {"statistics": kept, "keep_share": 0.01}))
    )
    request = toy.ask(name)
    for drafter, seed in ((pruned, 3), (full, 2), (pruned, 3)):
        law = exact_law(lambda: (toy.target_of(name), drafter, SpeculativeSampling(), Fixed(2)), request)  # noqa: B023
        assert total_variation(law, plain_law(lambda: toy.target_of(name), request)) < toy.EXACT
    assert full.shared.model.vocab_size == aligner.intersection.size
