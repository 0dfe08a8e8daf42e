"""SLRS: the proposal's law is what enumerating the stopping rule gives, and speculation with it is exact."""

import dataclasses

import bilingual as toy
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anydraft import Speculator, zoo
from anydraft.control.fixed import Fixed
from anydraft.core.errors import BadDraft, BadOption
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Size
from anydraft.core.tree import check
from anydraft.drafters import slrs as module
from anydraft.drafters.slrs import SLRS
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.slrs import SLRS as Rule
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import run

PAIRS = list(toy.PAIRS)
MANY = {"max_rows": 500, "least_share": 0.0}


def slrs(name, **options):
    return SLRS(**toy.given(name), **(MANY | options))


# -- the law of a proposal -------------------------------------------------------------------------------------------


def spelled(text, pieces):
    return not text or any(text.startswith(piece) and spelled(text[len(piece) :], pieces) for piece in pieces)


def simulated(name, own, tokens=None):
    """The law of what is proposed behind the drafter's ids `own`: every run of the stopping rule, written down from its description.

    tokens: the texts that may be proposed; None for all that the drafter can spell.
    """
    both, model = toy.aligner(name).intersection, toy.drafter_of(name)
    pieces = both.drafter.by_bytes
    tokens = {t for t in both.target.by_bytes if spelled(t, pieces)} if tokens is None else tokens
    law = torch.zeros(both.target.width, dtype=torch.float64)

    def go(path, text, weight):
        for d, q in enumerate(model.logits([*own, *path]).softmax(-1).tolist()):
            data = both.drafter.table[d]
            if data is None and not text and both.d2t[d] >= 0:
                law[both.d2t[d]] += weight * q
                continue
            longer = text + data if data is not None and pieces[data] == d else None
            begun = [t for t in tokens if longer is not None and t.startswith(longer)]
            if begun and begun != [longer]:
                go([*path, d], longer, weight * q)
            elif begun:
                law[both.target.by_bytes[longer]] += weight * q
            elif text in tokens:
                law[both.target.by_bytes[text]] += weight * q

    go([], b"", 1.0)
    return law


def drafted(drafter, request, k=1, seed=5):
    """(draft, drafter's ids of the context) of one production step."""
    context = Context.start([dataclasses.replace(request, seed=seed)])
    depth = torch.tensor([k])
    draft = drafter.propose(context, Size(depth=depth, nodes=depth), Keyed().at(context))
    check(draft, drafter.vocab_size)
    return draft, list(drafter.contexts.state(0).drafter_ids)


@pytest.mark.parametrize("name", PAIRS)
def test_psi_is_the_law_of_the_stopping_rule(name):
    drafter = slrs(name)
    draft, own = drafted(drafter, toy.ask(name))
    psi, expected = draft.law.rows(0)[0], simulated(name, own)
    assert float(psi.sum()) <= 1 + 1e-12
    assert torch.allclose(psi, expected, atol=1e-14, rtol=0)
    tokens = torch.arange(len(psi))
    one_by_one = torch.cat([slrs_at(name, t) for t in tokens.tolist()])
    assert torch.equal(one_by_one, psi)


def slrs_at(name, token):
    """psi of one token, asked alone of a fresh draft: only the rows that it needs are made."""
    return drafted(slrs(name), toy.ask(name))[0].law.at(0, torch.tensor([token]))


@pytest.mark.parametrize("name", PAIRS)
def test_psi_of_a_later_node_starts_from_the_split_that_was_drawn(name):
    seen = 0
    for seed in range(12):
        draft, own = drafted(slrs(name), toy.ask(name, tokens=6), k=3, seed=seed)
        for level, (start,) in enumerate(draft.law.starts):
            assert torch.allclose(draft.law.rows(level)[0], simulated(name, [*own, *start]), atol=1e-14, rtol=0)
            seen += level > 0
    assert seen > 0


@pytest.mark.parametrize("name", PAIRS)
def test_dear_tokens_are_left_out_of_the_event(name):
    """With a tight limit fewer tokens are proposed, and the law is that of the smaller event."""
    drafter = slrs(name, max_rows=3)
    cheap = set(drafter.splits.tokens)
    draft, own = drafted(drafter, toy.ask(name))
    psi = draft.law.rows(0)[0]
    assert torch.allclose(psi, simulated(name, own, tokens=cheap), atol=1e-14, rtol=0)
    proposed = {drafter.both.target.table[t] for t in psi.nonzero().flatten().tolist()} - {None}
    assert proposed == cheap


def test_the_references_toy():
    """T = {a, b, ba, aa}, D = {a, b, ab}: some tokens limited to three rows, so that the limit is known to bite."""
    assert set(slrs("half").splits.tokens) == {b"a", b"b", b"ba", b"aa"}
    assert set(slrs("half", max_rows=2).splits.tokens) == {b"a", b"b"}


# -- the law of the output -------------------------------------------------------------------------------------------


@pytest.mark.proof
@pytest.mark.parametrize("name", PAIRS)
def test_law_in_blocks(name):
    assert toy.distance(name, lambda: slrs(name), lambda: Rule(0), k=2) < toy.EXACT


@pytest.mark.proof
@pytest.mark.parametrize("cap", [1, 2])
@pytest.mark.parametrize("name", PAIRS)
def test_law_with_a_lazy_residual(name, cap):
    assert toy.distance(name, lambda: slrs(name), lambda: Rule(cap), k=1, tokens=2) < toy.EXACT


@pytest.mark.proof
@pytest.mark.parametrize("name, cap", [*((name, 1) for name in PAIRS), ("half", 2)])
def test_law_in_blocks_with_a_lazy_residual(name, cap):
    assert toy.distance(name, lambda: slrs(name), lambda: Rule(cap), k=2, top_k=2) < toy.EXACT


@pytest.mark.proof
@pytest.mark.parametrize("rule", [SpeculativeSampling, BlockVerification, RecursiveRejection, Match])
def test_law_under_rules_that_ask_for_whole_rows(rule):
    assert toy.distance("half", lambda: slrs("half"), rule, k=2, top_k=2) < toy.EXACT


@pytest.mark.proof
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "options", [{"temperature": 0.7, "top_k": 3, "draft_temperature": 1.5, "repetition_penalty": 1.3}, {"draft_temperature": 0.0}, {"top_p": 0.6}]
)
def test_law_with_truncation_and_another_draft_temperature(name, options):
    assert toy.distance(name, lambda: slrs(name), lambda: Rule(0), k=2, tokens=3, **options) < toy.EXACT


@pytest.mark.proof
def test_law_when_only_some_tokens_may_be_proposed():
    assert toy.distance("half", lambda: slrs("half", max_rows=2), lambda: Rule(1), k=2, top_k=2) < toy.EXACT


@pytest.mark.proof
def test_law_when_the_tree_is_begun_anew(monkeypatch):
    """With room for four nodes nearly every question begins a new tree; paths that are still needed are asked again."""
    monkeypatch.setattr(module, "NODES", 4)
    assert toy.distance("half", lambda: slrs("half", max_rows=3), lambda: Rule(1), k=2, top_k=2) < toy.EXACT
    draft, own = drafted(slrs("half", max_rows=3), toy.ask("half"))
    assert torch.allclose(draft.law.rows(0)[0], simulated("half", own), atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_a_row_does_not_depend_on_its_neighbours(name):
    """Rows of other lengths, temperatures and seeds beside it change nothing, with the production noise."""
    asked = [
        {"tokens": 9, "seed": 3},
        {"tokens": 4, "seed": 4, "temperature": 0.0},
        {"tokens": 12, "seed": 5, "top_k": 2},
        {"tokens": 7, "seed": 6, "draft_temperature": 0.3},
    ]

    def outputs(chosen):
        parts = (toy.target_of(name), slrs(name), Rule(2), Fixed(3))
        return run(parts, [toy.ask(name, **options) for options in chosen], Keyed())

    assert outputs(asked) == [outputs([options])[0] for options in asked]


@pytest.mark.parametrize("name", PAIRS)
def test_greedy_identity(name):
    plain = run((toy.target_of(name), slrs(name), Rule(), Fixed(0)), [toy.ask(name, tokens=16, temperature=0.0)], Keyed())
    for options in ({}, {"draft_temperature": 1.0}):
        request = toy.ask(name, tokens=16, temperature=0.0, **options)
        assert run((toy.target_of(name), slrs(name), Rule(), Fixed(4)), [request], Keyed()) == plain


# -- how much is accepted --------------------------------------------------------------------------------------------


@pytest.mark.proof
@pytest.mark.parametrize("name", PAIRS)
def test_acceptance_is_the_papers_sum(name):
    """sum of min(p, psi), never less than what exact match accepts of the same proposals, sum of p psi."""
    p, _ = toy.laws(name)
    psi = simulated(name, toy.aligner(name).start([0, 1]).drafter_ids)
    got = toy.acceptance(name, lambda: slrs(name), lambda: Rule(0))
    matched = toy.acceptance(name, lambda: slrs(name), Match)
    assert got == pytest.approx(float(torch.minimum(p, psi).sum()), abs=1e-9)
    assert matched == pytest.approx(float((p * psi).sum()), abs=1e-9)
    assert got >= matched


# -- mistakes that these tests see -----------------------------------------------------------------------------------


class OneSplit(module._Psi):
    """Planted: the law of a token is that of the split that its encoder gives."""

    def _psi(self, b, start, id):
        if id not in self.splits.texts:
            return super()._psi(b, start, id)
        text, weight, path = self.splits.texts[id], 1.0, start
        for piece in self.both.drafter.encode(text).ids:
            self.tree.ask([[path] if row == b else [] for row in range(len(self.tree.requests))])
            weight *= float(self.tree.law(b, path)[piece])
            path = (*path, piece)
        if not self.splits.ends(text):
            self.tree.ask([[path] if row == b else [] for row in range(len(self.tree.requests))])
        return weight * self._stop(b, path, text)


class NoStop(module._Psi):
    """Planted: the draw that ends the text does not count."""

    def _stop(self, b, path, text):
        return 1.0


class FirstContext(module._Psi):
    """Planted: the second token's law is taken behind the context, not behind the first token's split."""

    def _starts(self, index):
        return [()] * len(self.tree.requests)


class NoGap(SLRS):
    """Planted: an empty draw is padding, and its law is not subtracted."""

    def propose(self, context, size, noise):
        draft = super().propose(context, size, noise)
        return dataclasses.replace(draft, live=draft.live & (draft.tokens >= 0)) if draft.nodes else draft


@pytest.mark.proof
@pytest.mark.parametrize("planted, k", [(OneSplit, 1), (NoStop, 1), (FirstContext, 2)])
def test_a_law_that_was_not_drawn_from_is_seen(planted, k, monkeypatch):
    """In T = {ab, aba}, D = {a, b, ab} the token ab has two splits and goes on, so each of the mistakes matters."""
    monkeypatch.setitem(toy.PAIRS, "two splits", ([b"ab", b"aba", b"b"], [b"a", b"b", b"ab"]))
    right = toy.distance("two splits", lambda: slrs("two splits"), lambda: Rule(0), k=k, tokens=k + 1)
    monkeypatch.setattr(module, "_Psi", planted)
    assert right < toy.EXACT
    assert toy.distance("two splits", lambda: slrs("two splits"), lambda: Rule(0), k=k, tokens=k + 1) > 1e-4


@pytest.mark.proof
def test_a_gap_that_is_taken_for_padding_is_seen():
    assert toy.distance("a quarter", lambda: NoGap(**toy.given("a quarter"), **MANY), lambda: Rule(0), k=1, tokens=2) > 0.01


# -- what it costs ---------------------------------------------------------------------------------------------------


def test_a_token_is_one_forward():
    """All splits of a token are asked for at once, and once."""
    drafter = slrs("half")
    draft, _ = drafted(drafter, toy.ask("half"))
    before = drafter.forwards
    asked = torch.tensor([2])  # ba
    draft.law.at(0, asked)
    draft.law.at(0, asked)
    assert drafter.forwards <= before + 1


def test_impossible_draws_are_not_asked_for():
    """At draft temperature 0 only the one path that is drawn has a law."""
    drafter = slrs("half")
    draft, _ = drafted(drafter, toy.ask("half", draft_temperature=0.0))
    before = drafter.forwards
    psi = draft.law.rows(0)[0]
    assert sorted(psi.tolist()) in ([0.0] * 4, [0.0] * 3 + [1.0])
    assert drafter.forwards <= before + 1


@pytest.mark.parametrize("made, wrong", [({"max_rows": 2}, "max_rows=2"), ({"max_rows": 0}, "max_rows"), ({"least_share": 2.0}, "least_share")])
def test_an_impractical_pair_is_refused_with_a_way_out(made, wrong):
    with pytest.raises(BadOption, match=wrong) as error:
        SLRS(**toy.given("half"), **made)
    if made == {"max_rows": 2}:
        assert "tli" in str(error.value) and "slem" in str(error.value) and "50.0%" in str(error.value)


def test_a_law_that_is_asked_for_too_late_says_so():
    drafter = slrs("half")
    draft, _ = drafted(drafter, toy.ask("half"))
    drafted(drafter, toy.ask("half"))
    with pytest.raises(BadDraft, match="next draft"):
        draft.law.rows(0)


def test_a_drafter_without_room_drafts_nothing():
    drafter = slrs("half")
    drafter.contexts.max_length = 2
    assert drafted(drafter, toy.ask("half"))[0].nodes == 0


def test_controls_see_the_drafters_own_probabilities():
    seen = []

    def go_on(context, level):
        seen.append(level)
        return torch.ones_like(level.live)

    context = Context.start([toy.ask("half", tokens=9)])
    drafter, depth = slrs("half"), torch.tensor([4])
    for seed in range(6):
        context = dataclasses.replace(context, requests=(dataclasses.replace(context.requests[0], seed=seed),))
        draft = drafter.propose(context, Size(depth=depth, nodes=depth, go_on=go_on), Keyed().at(context))
        own = list(drafter.contexts.state(0).drafter_ids)
        for level in [level for level in seen if draft.tokens[0, level.depth - 1] >= 0 and level.depth < draft.nodes]:
            start, end = draft.law.starts[level.depth - 1][0], draft.law.starts[level.depth][0]
            chance = 1.0
            for at in range(len(start), len(end)):
                chance *= float(toy.drafter_of("half").logits([*own, *end[:at]]).softmax(-1)[end[at]])
            assert float(level.prob[0]) == pytest.approx(chance) and level.logits.shape == (1, 3)
        seen.clear()


# -- real models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """The bundled target, and a byte-level drafter that has learnt nothing: (target, its tokenizer, drafter, its tokenizer)."""
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    drafter = LlamaForCausalLM(config).eval()
    target = AutoModelForCausalLM.from_pretrained(zoo.path("target")).eval()
    return target, AutoTokenizer.from_pretrained(zoo.path("target")), drafter, tokenizer


def test_greedy_identity_with_a_byte_level_drafter(real):
    prompts = ["def add(a, b):\n    return", "# naïve ✓ — 你好\nclass"]
    plain = Speculator(*real[:2], method="none").generate(prompts, max_new_tokens=16)
    for options in ({}, {"draft_temperature": 1.0}):
        ours = Speculator(*real, method="slrs", rule="slrs", num_assistant_tokens=3, cap=4).generate(prompts, max_new_tokens=16, seed=1, **options)
        assert [g.token_ids for g in ours] == [g.token_ids for g in plain]
        assert sum(g.metrics.num_draft_tokens for g in ours) > 0


@torch.no_grad()
def test_psi_of_a_real_model_is_that_of_its_own_forwards(real):
    """One forward over a whole tree of splits gives what one forward for each byte would."""
    spec = Speculator(*real, method="slrs", num_assistant_tokens=1)
    drafter = spec.parts().drafter
    request = spec.requests("def f(x", max_new_tokens=4, temperature=1.0, seed=2)[0]
    draft, own = drafted(drafter, request)
    for word in (b"r", b" in", b"self", b"\n    "):
        token = drafter.splits.tokens[word]
        path, expected = list(own), 1.0
        for byte in drafter.both.drafter.spell(word):
            expected *= float(real[2](torch.tensor([path])).logits[0, -1].softmax(-1)[byte])
            path.append(byte)
        law = real[2](torch.tensor([path])).logits[0, -1].softmax(-1)
        going_on = {t[len(word) : len(word) + 1] for t in drafter.splits.tokens if t.startswith(word) and t != word}
        expected *= 1 - sum(float(law[drafter.both.drafter.by_bytes[byte]]) for byte in going_on)
        assert float(draft.law.at(0, torch.tensor([token]))) == pytest.approx(expected, rel=1e-4)


def test_a_byte_level_drafter_may_propose_nearly_every_token(real):
    splits = Speculator(*real, method="slrs").parts().drafter.splits
    assert splits.share == 1 and max(splits.rows.values()) == 1 + max(map(len, splits.rows))


def test_a_subword_drafter_is_refused_with_a_way_out(real):
    other = AutoModelForCausalLM.from_pretrained(zoo.path("draft-spm")).eval()
    with pytest.raises(BadOption, match="tli"):
        Speculator(*real[:2], other, AutoTokenizer.from_pretrained(zoo.path("draft-spm")), method="slrs")
