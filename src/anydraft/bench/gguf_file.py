"""Writes a Llama as a GGUF file, so that llama.cpp and OpenVINO GenAI can join a benchmark without a converter: `python -m anydraft.bench.gguf_file`.

Source:   the GGUF format as the `gguf` package writes it; tensor names and key names of llama.cpp's architecture "llama"

Plain Llamas with a byte-level BPE vocabulary only, which the bundled models are. For anything else llama.cpp has `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anydraft.core.errors import BadModel, BadOption

if TYPE_CHECKING:
    from anydraft.bench.pairs import Pair

LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LARGEST = 2_000_000_000  # weights that are still written for one run
PRECISIONS = {"f32": torch.float32, "f16": torch.float16}


def write(model: Any, tokenizer: Any, path: Path, precision: str = "f32") -> None:
    """Writes one file with weights and vocabulary.

    Args:
        model: a loaded `LlamaForCausalLM`. tokenizer: its fast tokenizer. precision: of the matrices, "f32" or "f16"; norms stay f32.
    Raises:
        BadModel: the model has something that this file does not know how to write. BadOption: the package `gguf` is not installed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadOption("a GGUF file is written with the package `gguf`", next_step="pip install gguf") from error
    vocabulary, merges = _vocabulary(tokenizer, model.config.vocab_size)
    out = gguf.GGUFWriter(str(path), "llama")
    _describe(out, model.config, precision)
    ends = tokenizer.all_special_ids
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(vocabulary)
    out.add_token_types([int(gguf.TokenType.CONTROL if n in ends else gguf.TokenType.NORMAL) for n in range(len(vocabulary))])
    out.add_token_merges(merges)
    out.add_add_bos_token(False)
    for add, value in ((out.add_bos_token_id, tokenizer.bos_token_id), (out.add_eos_token_id, tokenizer.eos_token_id)):
        if value is not None:
            add(value)
    for name, tensor in tensors(model):
        dtype = PRECISIONS[precision] if tensor.ndim > 1 else torch.float32
        out.add_tensor(name, tensor.to(dtype).contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def made_for(pair: Pair, role: str, precision: str) -> Path:
    """The file of a pair's target or drafter, written once and gone when the pair is.

    Raises:
        BadModel: as `write`; or the file would be large, and should be converted once and kept.
    """
    model, tokenizer = (pair.target, pair.tokenizer) if role == "target" else (pair.drafter, pair.drafter_tokenizer)
    key = f"gguf {role} {precision}"
    if key not in pair.kept:
        if (count := sum(p.numel() for p in model.parameters())) > LARGEST:
            step = "Convert it once with llama.cpp's convert_hf_to_gguf.py, and name the file with ANYDRAFT_GGUF"
            raise BadModel("this model is too large to be written anew for every benchmark", got=f"{count / 1e9:.1f}e9 weights", next_step=step)
        folder = tempfile.TemporaryDirectory(prefix="anydraft-")
        write(model, tokenizer, Path(folder.name) / "model.gguf", precision)
        pair.kept[key] = folder  # the folder goes when this object does
    return Path(pair.kept[key].name) / "model.gguf"


def tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in the file, tensor on the CPU), in the order of the model. A head that is the embedding is left out, as llama.cpp expects."""
    config = model.config
    if type(model).__name__ != "LlamaForCausalLM":
        raise BadModel("this model is no plain Llama", got=type(model).__name__, next_step="Use llama.cpp's convert_hf_to_gguf.py")
    if (kind := (config.rope_parameters or {}).get("rope_type", "default")) != "default":
        raise BadModel("this Llama scales its positions", got=kind, next_step="Use llama.cpp's convert_hf_to_gguf.py")
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and module == "lm_head" and config.tie_word_embeddings:
            continue
        if kind != "weight":
            raise BadModel(f"this Llama has a tensor that is not written here: {name}", next_step="Use llama.cpp's convert_hf_to_gguf.py")
        held = tensor.detach().cpu()
        if module in WHOLE:
            yield f"{WHOLE[module]}.weight", held
            continue
        layer, part = module.removeprefix("model.layers.").split(".", 1)
        yield f"blk.{layer}.{LAYER[part]}.weight", interleaved(held, heads[part]) if part in heads else held


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """f[O, D] with the rows of each head reordered: rotary pairs stand side by side in llama.cpp and half a head apart in transformers.

    >>> interleaved(torch.arange(8.0)[:, None], 2).flatten().tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _describe(out: Any, config: Any, precision: str) -> None:
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(config.head_dim)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_vocab_size(config.vocab_size)
    out.add_file_type(0 if precision == "f32" else 1)


def _vocabulary(tokenizer: Any, width: int) -> tuple[list[str], list[str]]:
    """(tokens by id, merges). Ids beyond the tokenizer's are given names of their own."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if getattr(tokenizer, "is_fast", False) else {}
    if parts.get("type") != "BPE" or parts.get("byte_fallback"):
        raise BadModel("this vocabulary is not byte-level BPE", got=str(parts.get("type")), next_step="Use llama.cpp's convert_hf_to_gguf.py")
    tokens = [f"<unused-{n}>" for n in range(width)]
    for token, place in tokenizer.get_vocab().items():
        tokens[place] = token
    return tokens, [merge if isinstance(merge, str) else " ".join(merge) for merge in parts["merges"]]


def main() -> None:
    """Converts a bundled model or a folder."""
    from anydraft.bench.pairs import located
    from anydraft.loading import load

    parser = argparse.ArgumentParser(prog="python -m anydraft.bench.gguf_file", description=main.__doc__)
    parser.add_argument("model", help="target, draft-bpe, or the folder of a Llama")
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="f32", help="of the matrices (f32)")
    asked = parser.parse_args()
    write(*load(located(asked.model), device_map="cpu"), asked.output, asked.precision)
    print(f"wrote {asked.output}")


if __name__ == "__main__":
    main()
