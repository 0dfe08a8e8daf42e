"""`model.generate(..., custom_generate=...)` returns what plain `generate` returns: sequences, padding, streams, scores, for every option it takes."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StopStringCriteria,
    TextIteratorStreamer,
)
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from anydraft import Speculator, zoo
from anydraft.core.errors import AnydraftError, BadModel, BadOption, BadPrompt
from anydraft.drop_in import speculative

NEW = 12


@pytest.fixture(scope="module")
def target():
    return AutoModelForCausalLM.from_pretrained(zoo.path("target"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def drafter():
    return AutoModelForCausalLM.from_pretrained(zoo.path("draft-bpe"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    one = AutoTokenizer.from_pretrained(zoo.path("target"), padding_side="left")
    one.pad_token = one.eos_token
    return one


@pytest.fixture(scope="module")
def one(tokenizer):
    """A prompt alone."""
    return dict(tokenizer([zoo.prompts()[0]["text"]], return_tensors="pt"))


@pytest.fixture(scope="module")
def three(tokenizer):
    """Three prompts of unlike lengths, padded on the left."""
    texts = sorted((p["text"] for p in zoo.prompts()[:12]), key=len)
    inputs = dict(tokenizer([texts[0], texts[3], texts[1]], return_tensors="pt", padding=True))
    assert inputs["attention_mask"].sum(1).unique().numel() > 1
    return inputs


@pytest.fixture(scope="module")
def ends(tokenizer):
    """Ids that end a text soon: line breaks and what is often in a line."""
    return [tokenizer(text, add_special_tokens=False).input_ids[-1] for text in ("\n", ",", ".", ")")] + [tokenizer.eos_token_id]


class Shy(LogitsProcessor):
    """A user's processor that looks at the whole row and at its length."""

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0]
        odd = (input_ids.sum(1, keepdim=True) + input_ids.shape[1]) % 3
        return scores - 2.0 * ((torch.arange(scores.shape[1]) % 3) == odd)


class Enough(StoppingCriteria):
    """A user's criterion: ends when one of the last two ids is a multiple of seven."""

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, -2:] % 7 == 0).any(1)


METHODS = {
    "draft_model": lambda drafter, tokenizer: speculative(drafter, tokenizer, method="draft_model", num_assistant_tokens=4),
    "tree": lambda drafter, tokenizer: speculative(drafter, tokenizer, method="draft_model", branching=(3, 2, 1), num_assistant_tokens=12),
    "prompt_lookup": lambda drafter, tokenizer: speculative(method="prompt_lookup", num_assistant_tokens=5),
}


@pytest.fixture(scope="module")
def drafts(drafter, tokenizer):
    return {name: make(drafter, tokenizer) for name, make in METHODS.items()}


def same(target, inputs, ours, **options):
    plain = target.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False} | options)
    got = target.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False} | options, custom_generate=ours)
    assert got.dtype == plain.dtype and got.shape == plain.shape and torch.equal(got, plain)
    return got


# -- sequences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", ["one", "three"])
def test_the_sequences_are_those_of_generate(target, drafts, method, rows, request):
    same(target, request.getfixturevalue(rows), drafts[method])


OPTIONS = {
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[199], [12, 34]]},
    "suppress": {"suppress_tokens": [198, 199, 200, 12], "begin_suppress_tokens": [265, 266]},
    "sequence_bias": {"sequence_bias": [[[199], -3.0], [[265, 266], 2.0]]},
    "encoder_penalty": {"encoder_repetition_penalty": 1.2},
    "forced_eos": {"forced_eos_token_id": 0},
    "renormalize": {"renormalize_logits": True, "remove_invalid_values": True},
    "exponential": {"exponential_decay_length_penalty": (4, 1.3)},
    "watermark": {"watermarking_config": {"greenlist_ratio": 0.4, "bias": 2.5, "context_width": 1}},
    "several": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [199], "min_new_tokens": 6},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_processor_of_the_configuration_is_honoured(target, drafts, three, name):
    changed = same(target, three, drafts["draft_model"], **OPTIONS[name])
    if name not in ("renormalize", "bad_words_ids"):
        plain = target.generate(**three, max_new_tokens=NEW, do_sample=False)
        assert changed.shape != plain.shape or not torch.equal(changed, plain), "the option changes nothing here: the test sees nothing"


@pytest.mark.parametrize("method", METHODS)
def test_rows_end_by_themselves_and_are_padded(target, drafts, three, ends, method, tokenizer):
    got = same(target, three, drafts[method], eos_token_id=ends, pad_token_id=5)
    new = got[:, three["input_ids"].shape[1] :]
    assert (new == 5).any() and not (new == 5).all(1).any(), "no row ended before another: the test sees nothing"


@pytest.mark.parametrize("least", ["min_new_tokens", "min_length"])
def test_least_lengths_count_as_in_the_batch(target, drafts, three, ends, least):
    """`min_length` counts the padding of a batch, and so do we."""
    start = three["input_ids"].shape[1]
    got = same(target, three, drafts["draft_model"], eos_token_id=ends, pad_token_id=5, **{least: 6 + (start if least == "min_length" else 0)})
    assert not any(id in ends for row in got[:, start : start + 6].tolist() for id in row)


def test_max_length_counts_the_prompt(target, drafts, three):
    longest = three["input_ids"].shape[1]
    got = same(target, three, drafts["draft_model"], max_new_tokens=None, max_length=longest + 7)
    assert got.shape[1] == longest + 7


@pytest.mark.parametrize("method", ["draft_model", "tree", "prompt_lookup"])
@pytest.mark.parametrize("rows", ["one", "three"])
def test_the_users_processors_and_criteria_are_kept(target, drafts, method, rows, request):
    inputs, pad = request.getfixturevalue(rows), {"pad_token_id": 0, "eos_token_id": 0}
    same(target, inputs, drafts[method], logits_processor=[Shy()], **pad)
    got = same(target, inputs, drafts[method], logits_processor=[Shy()], stopping_criteria=[Enough()], repetition_penalty=1.2, **pad)
    assert got.shape[1] < inputs["input_ids"].shape[1] + NEW


def test_a_users_object_takes_the_place_of_the_configurations(target, drafts, three):
    """generate() prefers a user's object to its own of the same type."""
    own = RepetitionPenaltyLogitsProcessor(1.9)
    got = same(target, three, drafts["draft_model"], logits_processor=[own], repetition_penalty=1.1)
    assert not torch.equal(got, target.generate(**three, max_new_tokens=NEW, do_sample=False, repetition_penalty=1.1))


def test_allowed_tokens_by_row(target, drafts, three):
    def allowed(row: int, ids) -> list[int]:
        return [200 + row, 300 + row, 400 + int(ids[-1]) % 7]

    got = same(target, three, drafts["draft_model"], prefix_allowed_tokens_fn=allowed)
    first = got[:, three["input_ids"].shape[1]]
    assert all(int(id) in (200 + row, 300 + row, *range(400, 407)) for row, id in enumerate(first))


def test_stop_strings_as_a_criterion(target, drafts, tokenizer, three):
    """generate() itself refuses `stop_strings` beside a callable, having no tokenizer for it; the criterion is honoured."""
    stop = StopStringCriteria(tokenizer, ["self", "a ", "the"])
    same(target, three, drafts["draft_model"], stopping_criteria=[stop])


def test_a_generation_config_object(target, drafts, three):
    config = GenerationConfig(max_new_tokens=9, repetition_penalty=1.3, do_sample=False, eos_token_id=0, pad_token_id=0)
    plain = target.generate(**three, generation_config=config)
    assert torch.equal(target.generate(**three, generation_config=config, custom_generate=drafts["tree"]), plain)


def test_the_models_own_configuration_is_not_changed(target, drafts, three):
    before = target.generation_config.to_json_string(use_diff=False)
    target.generate(**three, max_new_tokens=3, repetition_penalty=1.3, custom_generate=drafts["draft_model"])
    assert target.generation_config.to_json_string(use_diff=False) == before


# -- what is returned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"do_sample": True, "temperature": 0.7, "top_k": 1}], ids=str)
def test_the_dictionary_has_the_same_class_sequences_scores_and_logits(target, drafts, one, options):
    options = {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_scores": True, "output_logits": True, "do_sample": False} | options
    plain = target.generate(**one, **options)
    got = target.generate(**one, **options, custom_generate=drafts["draft_model"])
    assert type(got) is type(plain) is GenerateDecoderOnlyOutput
    assert torch.equal(got.sequences, plain.sequences)
    for ours, theirs in ((got.scores, plain.scores), (got.logits, plain.logits)):
        assert len(ours) == len(theirs) == NEW
        for a, b in zip(ours, theirs):
            assert a.shape == b.shape and torch.equal(a.isinf(), b.isinf())
            assert (a - b)[~a.isinf()].abs().max() < 2e-4


def test_scores_of_a_batch_until_each_row_ends(target, drafts, three, ends):
    options = {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_scores": True, "eos_token_id": ends, "pad_token_id": 5}
    plain, got = target.generate(**three, **options), target.generate(**three, **options, custom_generate=drafts["tree"])
    assert torch.equal(got.sequences, plain.sequences) and len(got.scores) == len(plain.scores)
    start = three["input_ids"].shape[1]
    for b in range(3):
        open_ = True
        for t, (a, c) in enumerate(zip(got.scores, plain.scores)):
            if open_:
                assert (a[b] - c[b]).abs().max() < 2e-4
            open_ = open_ and int(got.sequences[b, start + t]) not in ends


def test_without_being_asked_there_are_no_scores(target, drafts, one):
    got = target.generate(**one, max_new_tokens=4, return_dict_in_generate=True, custom_generate=drafts["draft_model"])
    assert got.scores is None and got.logits is None


class Noted(BaseStreamer):
    def __init__(self):
        self.puts, self.ends = [], 0

    def put(self, value):
        self.puts.append(value.clone())

    def end(self):
        self.ends += 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", ["one", "three"])
def test_a_streamer_gets_the_same_calls_in_the_same_order(target, drafts, ends, method, rows, request):
    inputs, noted = request.getfixturevalue(rows), []
    for extra in ({}, {"custom_generate": drafts[method]}):
        noted.append(Noted())
        target.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=ends, pad_token_id=5, streamer=noted[-1], **extra)
    plain, got = noted
    assert got.ends == plain.ends == 1 and len(got.puts) == len(plain.puts)
    for a, b in zip(got.puts, plain.puts):
        assert a.shape == b.shape and torch.equal(a, b) and a.device.type == "cpu"


def test_a_text_streamer_yields_the_text(target, drafts, tokenizer, one):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10)
    out = target.generate(**one, max_new_tokens=NEW, streamer=streamer, custom_generate=drafts["draft_model"])
    assert "".join(streamer) == tokenizer.decode(out[0, one["input_ids"].shape[1] :])


def test_a_streamer_may_be_given_where_the_callable_is_made(target, one):
    noted = Noted()
    target.generate(**one, max_new_tokens=3, custom_generate=speculative(method="none", streamer=noted))
    assert len(noted.puts) == 3 and noted.ends == 1


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_sampling_follows_torchs_generator_and_gives_each_sequence_its_own_noise(target, drafts, three):
    options = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 10, "num_return_sequences": 2, "custom_generate": drafts["draft_model"]}
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(target.generate(**three, **options))
    assert runs[0].shape == (6, three["input_ids"].shape[1] + 10)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert len({tuple(row.tolist()) for row in runs[0]}) == 6


SHAPES = {
    "top_k": {"top_k": 3},
    "top_p": {"top_k": 0, "top_p": 0.3},
    "min_p": {"top_k": 0, "min_p": 0.3},
    "typical": {"typical_p": 0.3},
    "epsilon": {"top_k": 0, "epsilon_cutoff": 0.05},
    "cold": {"temperature": 0.4, "top_k": 4, "repetition_penalty": 1.2},
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_sampled_lies_where_generate_would_sample(target, drafts, three, name):
    """Every sampled token has a finite score under transformers' own processors: the scores are computed by plain generate's list."""
    torch.manual_seed(0)
    options = {"do_sample": True, "max_new_tokens": 12, "return_dict_in_generate": True, "output_scores": True} | SHAPES[name]
    got = target.generate(**three, **options, custom_generate=drafts["draft_model"])
    new = got.sequences[:, three["input_ids"].shape[1] :]
    cut = 0
    for t, scores in enumerate(got.scores):
        assert scores.gather(1, new[:, t : t + 1]).isfinite().all()
        cut += int(scores.isinf().sum())
    assert cut > 0, "nothing was truncated: the test sees nothing"


def test_the_sampled_law_is_that_of_generate(target, drafter, tokenizer):
    """Two tokens, 200 sequences each way: their frequencies differ no more than two samples of one law do."""
    inputs = tokenizer(["import"], return_tensors="pt")
    options = {"do_sample": True, "top_k": 4, "temperature": 1.2, "max_new_tokens": 2, "num_return_sequences": 200}
    torch.manual_seed(0)
    plain = target.generate(**inputs, **options)[:, -2:].tolist()
    ours = target.generate(**inputs, **options, custom_generate=speculative(drafter, tokenizer, method="draft_model", num_assistant_tokens=2))
    ours = ours[:, -2:].tolist()
    cells = sorted({tuple(row) for row in plain + ours})
    a, b = ([sum(tuple(row) == cell for row in rows) for cell in cells] for rows in (plain, ours))
    statistic = sum((x - y) ** 2 / (x + y) for x, y in zip(a, b))  # chi-squared with at most 15 degrees of freedom
    assert 4 <= len(cells) <= 16 and statistic < 37.7, statistic  # 99.9 percent


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        ({"num_beams": 2}, "beam search"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
        ({"return_dict_in_generate": True, "output_hidden_states": True}, "output_hidden_states"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"return_dict_in_generate": True, "output_scores": True, "logits_processor": [Shy()]}, "output_scores"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_what_cannot_be_honoured_is_refused_by_name(target, drafts, one, options, says):
    forwards = []
    handle = target.register_forward_hook(lambda *_: forwards.append(1))
    try:
        with pytest.raises(BadOption, match=says):
            target.generate(**one, max_new_tokens=3, **options, custom_generate=drafts["draft_model"])
    finally:
        handle.remove()
    assert not forwards


def test_right_padding_and_holes_are_refused(target, drafts, three):
    for mask in (three["attention_mask"].flip(1), torch.ones_like(three["attention_mask"]).index_fill_(1, torch.tensor([3]), 0)):
        with pytest.raises(BadPrompt, match="padding_side"):
            target.generate(input_ids=three["input_ids"], attention_mask=mask, max_new_tokens=3, custom_generate=drafts["draft_model"])


def test_positions_of_the_users_own_are_refused(target, drafts, one):
    positions = torch.arange(one["input_ids"].shape[1])[None] + 3
    with pytest.raises(AnydraftError, match="position_ids"):
        target.generate(**one, position_ids=positions, max_new_tokens=3, custom_generate=drafts["draft_model"])


def test_a_filled_cache_is_refused(target, drafts, one):
    held = target(input_ids=one["input_ids"][:, :-1], use_cache=True).past_key_values
    with pytest.raises(BadOption, match="cache"):
        target.generate(**one, past_key_values=held, max_new_tokens=3, custom_generate=drafts["draft_model"])


# -- from a Speculator -------------------------------------------------------------------------------------------------


def test_a_speculator_has_one_too(target, drafter, tokenizer, three):
    ours = Speculator(target, tokenizer, drafter, method="draft_model")
    same(target, three, ours.custom_generate)
    same(target, three, ours.custom_generate, repetition_penalty=1.3)


def test_a_speculators_callable_is_for_its_own_model(target, drafter, tokenizer, one):
    ours = Speculator(target, tokenizer, method="prompt_lookup")
    with pytest.raises(BadModel, match="another model"):
        drafter.generate(**one, max_new_tokens=3, custom_generate=ours.custom_generate)


def test_one_callable_serves_several_models(target, drafter, one):
    ours = speculative(method="prompt_lookup")
    for model in (target, drafter, target):
        same(model, one, ours)
