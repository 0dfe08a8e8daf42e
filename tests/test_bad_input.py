"""What is wrong is said once, clearly, before anything runs: what, what was given, what would be right, what to do next."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from anydraft import Speculator, zoo
from anydraft.core.errors import (
    AnydraftError,
    BadModel,
    BadOption,
    BadPrompt,
    NonFiniteLogits,
    UnknownMethod,
    UnknownOption,
    UnsupportedModel,
    WrongPair,
    WrongVocabulary,
)


@pytest.fixture(scope="module")
def target():
    return AutoModelForCausalLM.from_pretrained(zoo.path("target"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(zoo.path("target"))


@pytest.fixture(scope="module")
def other():
    """The drafter with a vocabulary of its own, and its tokenizer."""
    where = zoo.path("draft-spm")
    return AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(where)


@pytest.fixture
def ours(target, tokenizer):
    """A Speculator whose model counts its forwards, so that nothing can run unseen."""
    made = Speculator(target, tokenizer, method="prompt_lookup")
    yield made
    made.target.reset()


def small(vocab_size: int = 64, positions: int = 32, seed: int = 0, **changes):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                         max_position_embeddings=positions, bos_token_id=0, eos_token_id=1, pad_token_id=0, **changes)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def refused(error: type[AnydraftError], says: str, call, *args, **kwargs) -> str:
    """The message of a refusal: one sentence with the words that help, no traceback of ours inside it."""
    with pytest.raises(error, match=says) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.endswith((".", "?", "!")) and "Traceback" not in message and len(message) < 600
    return message


# -- models and tokenizers ---------------------------------------------------------------------------------------------


def test_a_path_that_is_not_there(tmp_path):
    refused(BadModel, "there is no folder", Speculator.from_pretrained, str(tmp_path / "nowhere"))
    refused(BadModel, "holds no model", Speculator.from_pretrained, str(tmp_path))
    refused(BadModel, "there is no folder", Speculator.from_pretrained, zoo.path("target"), str(tmp_path / "nowhere"))


def test_a_name_that_no_hub_has():
    refused(BadModel, "cannot be loaded as a causal language model", Speculator.from_pretrained, "nobody/has-this-model")


def test_a_folder_with_half_a_model(tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(zoo.path("draft-bpe"), folder)
    (folder / "model.safetensors").unlink()
    refused(BadModel, "cannot be loaded", Speculator.from_pretrained, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    refused(BadModel, "cannot be loaded", Speculator.from_pretrained, folder)
    (folder / "config.json").write_text("{not json")
    refused(BadModel, "cannot be loaded", Speculator.from_pretrained, folder)


def test_pickled_weights_are_not_opened_unless_asked(tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(zoo.path("draft-bpe"), folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "use_safetensors=False" in refused(BadModel, "cannot be loaded", Speculator.from_pretrained, folder)


def test_a_name_where_a_loaded_model_belongs():
    refused(BadModel, "from_pretrained", Speculator, str(zoo.path("target")))


def test_a_model_in_training_mode(target, tokenizer):
    refused(BadModel, "training mode", Speculator, small().train())
    refused(BadModel, "assistant_model is in training mode", Speculator, target, tokenizer, small().train())


def test_a_model_that_cannot_be_decoded_here():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    refused(UnsupportedModel, "recurrent state", Speculator, MambaForCausalLM(config).eval())


def test_something_that_is_no_model(target, tokenizer):
    refused(BadModel, "model is not usable", Speculator, {"a": 1})
    refused(BadModel, "assistant_model is not usable", Speculator, target, tokenizer, {"a": 1})


def test_the_wrong_tokenizer_is_found_by_its_ids(tokenizer):
    message = refused(BadPrompt, "an id that the model does not have", Speculator(small(64), tokenizer, method="none").generate, "import os")
    assert "tokenizer that belongs" in message


# -- vocabularies ------------------------------------------------------------------------------------------------------


def test_a_drafter_with_another_vocabulary_under_draft_model(target, tokenizer, other):
    message = refused(WrongVocabulary, "draft_model needs a drafter with the target's vocabulary", Speculator, target, tokenizer, *other, "draft_model")
    assert "tli" in message


def test_another_vocabulary_of_the_same_size_is_told_by_content(target, tokenizer, tmp_path):
    """Two ids of the drafter's tokenizer change places: nothing but the content says so."""
    shutil.copytree(zoo.path("draft-bpe"), tmp_path / "swapped")
    file = tmp_path / "swapped" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    a, b = (word for word, id in vocab.items() if id in (40, 41))
    vocab[a], vocab[b] = vocab[b], vocab[a]
    file.write_text(json.dumps(content), encoding="utf-8")
    swapped = AutoTokenizer.from_pretrained(tmp_path / "swapped")
    assert len(swapped) == len(tokenizer)
    drafter = AutoModelForCausalLM.from_pretrained(zoo.path("draft-bpe"), dtype=torch.float32).eval()
    refused(WrongVocabulary, "draft_model needs", Speculator, target, tokenizer, drafter, swapped, "draft_model")
    Speculator(target, tokenizer, drafter, AutoTokenizer.from_pretrained(zoo.path("draft-bpe")), "draft_model")


@pytest.mark.parametrize("rows", [4160, 4128])
def test_padded_rows_of_the_drafters_head_are_no_difference(target, tokenizer, rows):
    drafter = AutoModelForCausalLM.from_pretrained(zoo.path("draft-bpe"), dtype=torch.float32).eval()
    plain = Speculator(target, tokenizer, drafter, tokenizer, "draft_model").generate("import os", max_new_tokens=12)
    drafter.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        drafter.lm_head.weight[4096:] = drafter.lm_head.weight[:4096].abs().max() * 10  # a row of padding would win every argmax
    got = Speculator(target, tokenizer, drafter, tokenizer, "draft_model").generate("import os", max_new_tokens=12)
    assert got.token_ids == plain.token_ids and got.metrics.num_draft_tokens > 0


def test_a_drafter_narrower_than_its_target_never_sees_an_id_that_it_lacks():
    """A target with padded rows may emit one of them; the drafter has no such embedding."""
    ours = Speculator(small(64), None, small(48, seed=1), method="draft_model", num_assistant_tokens=3)
    plain = Speculator(small(64), None, method="none")
    for options in ({"temperature": 0.0}, {"temperature": 2.0, "seed": 3}):
        got = ours.generate([60, 5, 63, 7], max_new_tokens=20, **options)
        if not options["temperature"]:
            assert got.token_ids == plain.generate([60, 5, 63, 7], max_new_tokens=20).token_ids
        assert len(got.token_ids) == 20 or got.finish_reason == "stop"


def test_a_drafter_with_a_shorter_context_stops_drafting_and_nothing_else():
    ours = Speculator(small(positions=128), None, small(positions=16, seed=1), method="draft_model", control="fixed", num_assistant_tokens=3)
    tree = Speculator(small(positions=128), None, small(positions=16, seed=1), method="draft_model", control="fixed", branching=(2, 2))
    plain = Speculator(small(positions=128), None, method="none")
    prompts = [[3, 4, 5], list(range(2, 22)), [7] * 10]
    want = [g.token_ids for g in plain.generate(prompts, max_new_tokens=30, ignore_eos=True)]
    for one in (ours, tree):
        got = one.generate(prompts, max_new_tokens=30, ignore_eos=True)
        assert [g.token_ids for g in got] == want
        assert got[0].metrics.num_draft_tokens > 0 and got[1].metrics.num_draft_tokens == 0


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("", "prompt 0 is empty"),
        ([], "no prompt was given"),
        (["import", ""], "prompt 1 is empty"),
        ([[1, 2], []], "prompt 1 is empty"),
        ([5, 4096], "an id that the model does not have"),
        ([5, -1], "an id that the model does not have"),
        ([[1], [2, 99999]], "prompt 1 holds an id"),
        (torch.zeros(1, 0, dtype=torch.int64), "is empty"),
        (7, "no prompt was given"),
        (3.5, "no prompt was given"),
        ({"text": "a"}, "no prompt was given"),
        ([1, 2.5], "prompt"),
        (["a", None], "prompt"),
        (torch.tensor([0.5, 1.5]), "ids"),
        ([True, False], "prompt"),
    ],
    ids=repr,
)
def test_a_prompt_that_cannot_be_continued(ours, prompt, says):
    refused(BadPrompt, says, ours.generate, prompt, max_new_tokens=2)
    assert ours.target.forwards == 0


def test_a_batch_may_mix_text_and_ids(ours, tokenizer):
    ids = tokenizer("import os").input_ids
    text, same, tensor = ours.generate(["import os", ids, torch.tensor(ids)], max_new_tokens=4)
    assert text.token_ids == same.token_ids == tensor.token_ids


def test_a_prompt_longer_than_the_context(ours):
    message = refused(BadPrompt, "longer than the model's context", ours.generate, [5] * 4096, max_new_tokens=2)
    assert f"at most {ours.target.max_length - 1}" in message and ours.target.forwards == 0


def test_a_limit_beyond_the_context_ends_at_the_context():
    one = Speculator(small(positions=16), None, method="prompt_lookup").generate([3, 4, 5], max_new_tokens=100, ignore_eos=True)
    assert len(one.token_ids) == 13 and one.finish_reason == "length"


def test_text_without_a_tokenizer():
    bare = Speculator(small(), None, method="none")
    refused(BadPrompt, "needs a tokenizer", bare.generate, "text")
    refused(BadOption, "stop_strings need a tokenizer", bare.generate, [1, 2], stop_strings="x")


def test_a_chat_without_a_template(ours):
    refused(BadPrompt, "chat template", ours.generate, messages=[{"role": "user", "content": "hi"}])


def test_both_or_neither_of_prompt_and_messages(ours):
    refused(BadPrompt, "exactly one", ours.generate)
    refused(BadPrompt, "exactly one", ours.generate, "a", messages=[{"role": "user", "content": "hi"}])


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"max_new_token": 3}, UnknownOption, "Did you mean 'max_new_tokens'"),
        ({"zzz": 3}, UnknownOption, "The options are"),
        ({"num_beams": 4}, BadOption, "beam search"),
        ({"max_new_tokens": 0}, BadOption, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, BadOption, "max_new_tokens"),
        ({"temperature": -1}, BadOption, "temperature"),
        ({"temperature": float("nan")}, BadOption, "temperature"),
        ({"temperature": "warm"}, BadOption, "temperature"),
        ({"top_p": 0.0}, BadOption, "top_p"),
        ({"top_p": 1.5}, BadOption, "top_p"),
        ({"min_p": -0.1}, BadOption, "min_p"),
        ({"top_k": -1}, BadOption, "top_k"),
        ({"repetition_penalty": 0}, BadOption, "repetition_penalty"),
        ({"do_sample": False, "temperature": 1.0}, BadOption, "contradicts"),
        ({"do_sample": True, "temperature": 0.0}, BadOption, "contradicts"),
        ({"num_return_sequences": 0}, BadOption, "num_return_sequences"),
        ({"stop_strings": [""]}, BadOption, "stop string is empty"),
        ({"stop_strings": [5]}, BadOption, "stop_strings"),
        ({"stop_token_ids": [4096]}, BadOption, "stop_token_ids"),
        ({"suppress_tokens": [-1]}, BadOption, "suppress_tokens"),
        ({"logit_bias": {99999: 1.0}}, BadOption, "logit_bias"),
        ({"logit_bias": {5: float("nan")}}, BadOption, "logit_bias"),
        ({"forced_tokens": [4097]}, BadOption, "forced_tokens"),
        ({"logprobs": -1}, BadOption, "logprobs"),
        ({"seed": [1, 2, 3]}, BadOption, "3 seeds"),
        ({"seed": "seven"}, BadOption, "seed"),
        ({"seed": 1.5}, BadOption, "seed"),
        ({"seed": 2**70}, BadOption, "seed"),
        ({"logits_processor": 5}, BadOption, "logits_processor"),
        ({"stopping_criteria": "no"}, BadOption, "stopping_criteria"),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_an_option_that_cannot_be_used(ours, options, error, says):
    refused(error, says, ours.generate, ["import os", "def f"], **options)
    assert ours.target.forwards == 0


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"method": "prompt_lokup"}, UnknownMethod, "Did you mean 'prompt_lookup'|prompt_lookup"),
        ({"method": "prompt_lookup", "rule": "matsch"}, UnknownMethod, "match"),
        ({"method": "prompt_lookup", "control": "fixd"}, UnknownMethod, "fixed"),
        ({"method": "prompt_lookup", "max_matching_ngram": 3}, UnknownOption, "Did you mean 'max_matching_ngram_size'"),
        ({"method": "prompt_lookup", "num_assistant_tokens": -1}, BadOption, "num_assistant_tokens"),
        ({"method": "prompt_lookup", "num_assistant_tokens": "many"}, BadOption, "num_assistant_tokens"),
        ({"method": "prompt_lookup", "max_batch_size": 0}, BadOption, "max_batch_size"),
        ({"method": "draft_model"}, BadOption, "assistant_model"),
        ({"method": "token_recycling", "rule": "speculative_sampling"}, WrongPair, "cannot judge"),
    ],
    ids=lambda x: ",".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_a_speculator_that_cannot_be_made(target, tokenizer, options, error, says):
    refused(error, says, Speculator, target, tokenizer, **options)


# -- while it runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_law(value, temperature):
    model = small()
    with torch.no_grad():
        model.lm_head.weight.fill_(value)
    bad = Speculator(model, None, method="prompt_lookup")
    refused(NonFiniteLogits, "NaN or without any finite value", bad.generate, [3, 4, 5, 3, 4], max_new_tokens=4, temperature=temperature, seed=1)


def test_a_drafter_whose_logits_are_nan_costs_speed_and_no_token():
    drafter = small(seed=1)
    with torch.no_grad():
        drafter.lm_head.weight.fill_(float("nan"))
    plain = Speculator(small(), None, method="none").generate([3, 4, 5], max_new_tokens=8, ignore_eos=True)
    ours = Speculator(small(), None, drafter, method="draft_model")
    try:
        got = ours.generate([3, 4, 5], max_new_tokens=8, ignore_eos=True)
    except NonFiniteLogits as error:
        assert "draft" in str(error)
    else:
        assert got.token_ids == plain.token_ids


@pytest.mark.parametrize("method", ["none", "prompt_lookup"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_processors_that_leave_no_token(ours, target, tokenizer, method, temperature):
    def nothing(input_ids, scores):
        return torch.full_like(scores, -torch.inf)

    made = Speculator(target, tokenizer, method=method)
    refused(BadOption, "left no token", made.generate, "import os", max_new_tokens=3, logits_processor=nothing, temperature=temperature, seed=1)


def test_an_error_of_the_users_own_passes_through_and_leaves_no_trace(ours):
    want = ours.generate("import os", max_new_tokens=6).token_ids

    def broken(input_ids, scores):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ours.generate("import os", max_new_tokens=6, logits_processor=broken)
    assert ours.generate("import os", max_new_tokens=6).token_ids == want
