"""Processors: our laws are those of transformers' own list in its own order, and each draft node is processed with exactly its prefix."""

import dataclasses
import random

import pytest
import torch
from toys import Trees, ask, target
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList
from transformers.generation import logits_process as hf

from anydraft.core.errors import BadOption
from anydraft.core.noise import Keyed
from anydraft.core.processors import Laws, Processed, drafting_law
from anydraft.core.records import Context, Draft, Size
from anydraft.core.rollout import determined_chain
from anydraft.engine.table import TableModel

V, PROMPT = 24, (3, 5, 3, 1)


@pytest.fixture(scope="module")
def generation():
    """transformers' GenerationMixin, on the smallest model there is."""
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))


def theirs(generation, options, ids, logits):
    """f[V]: the law by the list that `generate` itself would build."""
    sampling = options.get("temperature", 1.0) > 0
    config = GenerationConfig(
        do_sample=sampling,
        temperature=options.get("temperature", 1.0) if sampling else 1.0,
        top_k=options.get("top_k", 0) or None,
        top_p=options.get("top_p", 1.0),
        min_p=options.get("min_p") or None,
        repetition_penalty=options.get("repetition_penalty", 1.0),
        min_new_tokens=options.get("min_new_tokens") or None,
        sequence_bias=[[[t], v] for t, v in options["logit_bias"].items()] if "logit_bias" in options else None,
        suppress_tokens=list(options["banned_tokens"]) if "banned_tokens" in options else None,
        eos_token_id=sorted(options["eos"]) if "eos" in options else None,
    )
    config._eos_token_tensor = torch.tensor(sorted(options["eos"])) if "eos" in options else None
    chain = generation._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(PROMPT), device="cpu", logits_processor=LogitsProcessorList(options.get("logits_processor", ()))
    )
    scores = chain(torch.tensor([ids]), logits[None].clone())[0]
    return scores.softmax(-1) if sampling else torch.nn.functional.one_hot(scores.argmax(-1), V).to(scores.dtype)


def by_sum(ids, scores):
    """A user's own: pure, but a function of the whole prefix."""
    return scores + ids.sum() % 5 * torch.arange(scores.shape[-1]).cos()


CHOICES = {
    "temperature": [0.0, 0.5, 1.0, 1.7], "top_k": [0, 3, 10], "top_p": [1.0, 0.8, 0.4], "min_p": [0.0, 0.1, 0.4], "repetition_penalty": [1.0, 1.4, 0.7],
    "min_new_tokens": [0, 2, 5],
    "logit_bias": [None, {3: 2.0, 7: -4.0}], "banned_tokens": [None, (1, 8)],
    "logits_processor": [(), (hf.NoRepeatNGramLogitsProcessor(2),), (hf.TypicalLogitsWarper(0.7),), (by_sum,)],
}  # fmt: skip


def options_of(seed):
    rng = random.Random(seed)
    chosen = {name: rng.choice(values) for name, values in CHOICES.items()}
    return {name: value for name, value in chosen.items() if value is not None} | {"eos": frozenset({2, 9})}


@pytest.mark.parametrize("seed", range(60))
def test_laws_are_those_of_transformers(generation, seed):
    """Random options, and a tree whose nodes have prefixes of their own."""
    options = options_of(seed)
    context = Context.start([ask(9, prompt=PROMPT, **options), ask(9, prompt=PROMPT[1:], temperature=0.5)])
    drafter = Trees([-1, -1, 0, 0, 3], ["independent"] * 5, vocab=V)
    room = torch.tensor([9, 9])
    draft = drafter.propose(context, Size(depth=room, nodes=room), Keyed().at(context))
    logits = torch.randn(2, 6, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    law = Laws().of(logits, context, draft)
    prefixes = [[]]
    for token, parent in zip(draft.tokens[0].tolist(), draft.parent[0].tolist()):
        prefixes.append(prefixes[parent + 1] + [token])
    for i, tail in enumerate(prefixes):
        expected = theirs(generation, options, [*PROMPT, *tail], logits[0, i])
        got = law.rows(torch.tensor([i, 0]))[0]
        assert torch.allclose(got, expected, atol=1e-12), options
        assert float(law.at(torch.tensor([i, 0]), torch.tensor([4, 4]))[0]) == pytest.approx(float(expected[4]), abs=1e-12)


def test_presence_and_frequency_count_generated_tokens_only():
    request = ask(9, prompt=PROMPT, presence_penalty=0.5, frequency_penalty=0.25)
    context = Context.start([request]).extended([[3, 8, 8]])
    logits = torch.zeros(1, 1, V, dtype=torch.float64)
    row = Laws().of(logits, context, Draft.empty(1)).rows(0)[0].log()
    difference = (row - row[0]).tolist()
    assert difference[3] == pytest.approx(-0.75) and difference[8] == pytest.approx(-1.0) and difference[5] == pytest.approx(0.0)


def test_forced_tokens_come_in_order_and_then_no_more():
    request = ask(9, prompt=PROMPT, forced_tokens=(6, 4))
    for new, expected in (([], 6), ([6], 4)):
        law = Laws().of(torch.randn(1, 1, V), Context.start([request]).extended([new]), Draft.empty(1))
        assert float(law.rows(0)[0, expected]) == 1.0
    free = Laws().of(torch.randn(1, 1, V), Context.start([request]).extended([[6, 4]]), Draft.empty(1))
    assert float(free.rows(0).max()) < 0.9


def test_greedy_requests_alone_store_ids():
    """Temperature 0 is the one-hot law, stored as an id; one penalty more, and it is computed per node."""
    logits = torch.randn(2, 1, V)
    plain = Laws().of(logits, Context.start([ask(3, temperature=0.0), ask(3, temperature=0.0)]), Draft.empty(2))
    mixed = Laws().of(logits, Context.start([ask(3, temperature=0.0), ask(3, temperature=0.0, repetition_penalty=1.1)]), Draft.empty(2))
    assert not isinstance(plain, Processed) and isinstance(mixed, Processed)
    assert torch.equal(plain.rows(0), mixed.rows(0)) and set(plain.rows(0).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("given, made", [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_laws_are_never_computed_below_float32(given, made):
    context = Context.start([ask(3, temperature=0.7)])
    logits = torch.randn(1, 1, V).to(given)
    assert Laws().of(logits, context, Draft.empty(1)).rows(0).dtype == made == drafting_law(logits[:, 0], context.requests).rows(0).dtype


def test_processors_that_leave_nothing_are_named():
    request = ask(3, logits_processor=(lambda ids, scores: scores * 0 - torch.inf,))
    with pytest.raises(BadOption, match="left no token"):
        Laws().of(torch.randn(1, 1, V), Context.start([request]), Draft.empty(1)).rows(0)


class Recording:
    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0] == 1
        self.seen.append(tuple(input_ids[0].tolist()))
        return scores


def test_a_users_processor_sees_each_node_once_with_its_own_prefix():
    watch = Recording()
    context = Context.start([ask(9, prompt=PROMPT, logits_processor=(watch,)), ask(9, prompt=PROMPT)])
    room = torch.tensor([9, 9])
    draft = Trees([-1, -1, 0], ["independent"] * 3, vocab=V).propose(context, Size(depth=room, nodes=room), Keyed().at(context))
    law = Laws().of(torch.randn(2, 4, V), context, draft)
    for i in (0, 1, 3, 1, 0, 3, 2):
        law.rows(torch.tensor([i, 0]))
    a, b, c = draft.tokens[0].tolist()
    assert watch.seen == [PROMPT, (*PROMPT, a), (*PROMPT, a, c), (*PROMPT, b)]


def test_no_processor_is_shown_an_empty_draw():
    """A row that drew nothing may share a batch with rows that went on; nobody asks for what would follow it, and no token is -1."""
    watch = Recording()
    context = Context.start([ask(9, prompt=PROMPT, logits_processor=(watch,), repetition_penalty=1.3)])
    draft = determined_chain([[2, 5]])
    draft = dataclasses.replace(draft, tokens=torch.tensor([[2, -1]]))
    law = Laws().of(torch.randn(1, 3, V), context, draft)
    assert float(law.rows(2).sum()) == pytest.approx(1) and watch.seen == []
    law.rows(1)
    assert watch.seen == [(*PROMPT, 2)]


class Counting:
    """A processor that counts its calls: its law depends on how often it was asked, so nothing may be asked in vain."""

    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores


class Growing:
    def __init__(self):
        self.memory = []

    def __call__(self, input_ids, scores):
        self.memory.append(int(input_ids[0, -1]))
        return scores


class PreparesOnce:
    """Not state: what is built at the first call stays as it is."""

    def __init__(self):
        self.mask = None

    def __call__(self, input_ids, scores):
        if self.mask is None:
            self.mask = torch.zeros(scores.shape[-1])
        return scores + self.mask


def with_closure(calls):
    def processor(input_ids, scores):
        calls.append(1)
        return scores

    return processor


@pytest.mark.parametrize("processor, keeps_state", [
    (Counting(), True), (Growing(), True), (with_closure([]), True), (PreparesOnce(), False), (lambda ids, scores: scores * 1.5, False),
    (hf.NoRepeatNGramLogitsProcessor(2), False), (hf.PrefixConstrainedLogitsProcessor(lambda b, ids: [0, 1], 1), True),
])  # fmt: skip
def test_processors_that_keep_state_never_speculate(processor, keeps_state):
    """Known ones by their class, the user's own by watching its attributes over the first calls."""
    model, context = TableModel(3, seed=1), Context.start([ask(9, logits_processor=(processor,))])
    plain = []
    for n in range(8):
        plain.append(bool(model.plain(context)))
        model.score(context.extended([[0] * n]), Draft.empty(1)).law.rows(0)
    assert plain[-1] == keeps_state
    if not keeps_state and not type(processor).__module__.startswith("transformers."):
        assert plain[0], "nobody is trusted before the first calls"


def test_requests_without_processors_are_not_watched():
    assert target().plain(Context.start([ask(3), ask(3)])) is None


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.3},
                                     {"draft_temperature": 2.0}, {"draft_temperature": 0.0}])  # fmt: skip
def test_the_drafters_law_follows_the_request(generation, options):
    requests = [ask(3, **options), ask(3, temperature=1.3)]
    logits = torch.randn(2, V, dtype=torch.float64)
    own = {name: value for name, value in options.items() if name != "draft_temperature"}
    own["temperature"] = options.get("draft_temperature", options.get("temperature", 1.0))
    law = drafting_law(logits, requests).rows(0)
    assert torch.allclose(law[0], theirs(generation, own, list(PROMPT), logits[0]), atol=1e-12)
    assert torch.allclose(law[1], (logits[1] / 1.3).softmax(-1), atol=1e-12)
