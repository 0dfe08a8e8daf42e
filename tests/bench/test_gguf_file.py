"""What is written for llama.cpp and OpenVINO: every weight once, under their names, in their order of rows; and nothing that is not understood."""

import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from anydraft.bench import gguf_file
from anydraft.bench.pairs import Pair
from anydraft.core.errors import BadModel, BadOption


def llama(**changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 32}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()


class Writer:
    """Records what `gguf.GGUFWriter` is told."""

    def __init__(self, path, arch):
        self.told, self.tensors = {"arch": arch}, {}
        Writer.last = self

    def add_tensor(self, name, array):
        self.tensors[name] = array

    def __getattr__(self, name):
        return lambda *value: self.told.update({name: value[0] if value else None})


@pytest.fixture
def gguf(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFWriter=Writer, TokenType=SimpleNamespace(CONTROL=3, NORMAL=1)))


def test_every_weight_is_written_once_and_rotary_rows_move():
    model = llama(tie_word_embeddings=False)
    written = dict(gguf_file.tensors(model))
    assert len(written) == len(model.state_dict()) and sum(t.numel() for t in written.values()) == sum(p.numel() for p in model.parameters())
    keys = model.model.layers[1].self_attn.k_proj.weight  # 2 heads of 4 rows: 0 1 2 3 -> 0 2 1 3
    assert torch.equal(written["blk.1.attn_k.weight"], keys[[0, 2, 1, 3, 4, 6, 5, 7]])
    assert torch.equal(written["blk.0.attn_v.weight"], model.model.layers[0].self_attn.v_proj.weight)
    assert "output.weight" in written and "output.weight" not in dict(gguf_file.tensors(llama(tie_word_embeddings=True)))


@pytest.mark.parametrize("model, said", [
    (lambda: llama(attention_bias=True), "q_proj.bias"),
    (lambda: llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "scales its positions"),
    (lambda: Qwen2ForCausalLM(Qwen2Config(vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                                          num_key_value_heads=2)), "no plain Llama"),
])  # fmt: skip
def test_what_is_not_understood_is_refused(model, said):
    with pytest.raises(BadModel, match=said):
        list(gguf_file.tensors(model()))


def test_a_file_is_written_once_for_a_pair_and_goes_with_it(gguf):
    pair = Pair.load("target", "draft-bpe")
    path = gguf_file.made_for(pair, "target", "f16")
    told, config = Writer.last.told, pair.target.config
    assert told["arch"] == "llama" and told["add_block_count"] == config.num_hidden_layers and told["add_rope_freq_base"] == 10000.0
    tokens = told["add_token_list"]
    assert len(tokens) == config.vocab_size and tokens[5] == pair.tokenizer.convert_ids_to_tokens(5) and told["add_token_types"][0] == 3
    assert " ".join(["Ġ", "Ġ"]) == told["add_token_merges"][0] and told["add_eos_token_id"] == 0
    assert {str(a.dtype) for n, a in Writer.last.tensors.items() if "norm" not in n} == {"float16"}
    assert gguf_file.made_for(pair, "target", "f16") == path and path.parent.is_dir()
    pair.kept.clear()
    assert not path.parent.exists()


def test_a_large_model_is_not_written_for_one_run(monkeypatch):
    monkeypatch.setattr(gguf_file, "LARGEST", 1000)
    pair = Pair("t", None, ("t", None), llama(), None)
    with pytest.raises(BadModel, match="ANYDRAFT_GGUF"):
        gguf_file.made_for(pair, "target", "f32")


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadOption, match="pip install gguf"):
        gguf_file.write(llama(), None, tmp_path / "m.gguf")
