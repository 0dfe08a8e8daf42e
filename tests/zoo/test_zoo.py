"""The bundled models load, are what the recipe says, and the prompts are from files that they never saw."""

import hashlib
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from anydraft import zoo
from anydraft.core.errors import BadModel
from anydraft.zoo import recipe

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_model_has_the_shape_of_the_recipe_and_its_tokenizer(name):
    model = AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    shape, config = recipe.SHAPES[name], model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads) == shape[:4]
    assert config.vocab_size == len(tokenizer)
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    text = "def f(x):\n        return {'a': x}\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert loss < 4.5, "a model that has learnt nothing has log(4096) = 8.3"


@pytest.mark.parametrize("name", zoo.MODELS)
def test_weights_are_bfloat16_safetensors(name):
    with safe_open(zoo.path(name) / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_the_folder_is_under_32_megabytes():
    assert sum(path.stat().st_size for path in zoo.FOLDER.rglob("*") if path.is_file()) < 32e6


def test_both_bpe_models_share_one_tokenizer():
    one, other = ((zoo.path(name) / "tokenizer.json").read_bytes() for name in ("target", "draft-bpe"))
    assert hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def test_an_unknown_model_is_refused_with_the_choices():
    with pytest.raises(BadModel, match=r"one of target, draft-bpe, draft-spm\). Did you mean 'draft-bpe'\?"):
        zoo.path("draft_bpe")


def test_prompts_are_many_distinct_held_out_and_of_varied_length():
    prompts = zoo.prompts()
    tokenizer = Tokenizer.from_file(str(zoo.path("target") / "tokenizer.json"))
    lengths = [len(tokenizer.encode(prompt["text"], add_special_tokens=False).ids) for prompt in prompts]
    assert len(prompts) >= 60
    assert len({prompt["id"] for prompt in prompts}) == len({prompt["text"] for prompt in prompts}) == len(prompts)
    assert all(recipe.is_held_out(prompt["source"]) for prompt in prompts)
    assert min(lengths) >= 40 and max(lengths) <= 400
    assert sum(length < 80 for length in lengths) >= 10 and sum(length > 300 for length in lengths) >= 10
    assert len({prompt["source"] for prompt in prompts[:10]}) >= 8, "the first prompts come from different files"


def test_the_demo_prompt_is_one_of_them():
    prompt = zoo.demo_prompt()
    assert prompt in zoo.prompts()
    assert prompt["text"].rstrip().endswith(":")


@pytest.mark.skipif(not (STDLIB / "asyncio/events.py").exists(), reason="this Python has no standard library source")
def test_a_prompt_is_cut_from_its_source():
    """The library's text changes between versions of Python; one file that is much the same in all of them is looked at."""
    text = (STDLIB / "asyncio/events.py").read_text(encoding="utf-8")
    mine = [prompt for prompt in zoo.prompts() if prompt["source"] == "asyncio/events.py"]
    assert sum(prompt["text"] in text for prompt in mine) >= len(mine) / 2
