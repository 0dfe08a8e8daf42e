"""Models of a well-known size with random weights, `random:NAME`: what a decoding step costs at that size, with nothing to download.

Only times and costs can be measured with them. What they say means nothing, so how often a drafter is right has to be set
(steered.py), and is then marked in every table.

Each token's successor is written into the head: the embedding is large beside what the layers add to it, and the head is the same table turned by
some rows, so the largest logit stands far above all others. With weights drawn alone, two logits of 128,256 are close every few tokens, and in
bfloat16 a forward of several rows would then often choose another one than a forward of one row.
"""

from __future__ import annotations

import copy
import functools
import zlib
from dataclasses import dataclass
from typing import Any

import torch

from anydraft import zoo
from anydraft.core.errors import BadModel, nearest
from anydraft.engine.transformers import TransformersModel

PREFIX = "random:"
SPREAD = 0.002  # standard deviation of the projections: small, so that the embedding outweighs what the layers add


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes as public models of the Llama kind have them. Head and embedding are two tables here, also where the original shares one."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int = 128_256


SHAPES = {
    "llama-8b": Shape(32, 4096, 32, 8, 14336),
    "llama-3b": Shape(28, 3072, 24, 8, 8192),
    "llama-1b": Shape(16, 2048, 32, 8, 8192),
    "llama-160m": Shape(12, 768, 12, 12, 3072),
    "tiny": Shape(2, 64, 4, 2, 128, 4608),
    "tiny-draft": Shape(1, 32, 2, 1, 64, 4608),
}
LONGEST = 8192  # positions


def is_random(name: str | None) -> bool:
    """Whether a model's name asks for random weights.

    >>> is_random("random:llama-8b"), is_random("target")
    (True, False)
    """
    return name is not None and name.startswith(PREFIX)


def load(name: str, dtype: Any = None, device: Any = None) -> tuple[Any, Any]:
    """(model, tokenizer): weights that depend on the name alone, made where they are needed, and the bundled target's tokenizer.

    The vocabulary is larger than the tokenizer's: ids beyond it have no text, and decode as nothing.

    Args:
        dtype: a torch type or its name; None: float32 on a CPU, bfloat16 elsewhere.
        device: None: an accelerator if there is one.
    Raises:
        BadModel: no shape has this name.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

    shape, tokenizer = shape_of(name), bundled_tokenizer()
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=LONGEST, initializer_range=SPREAD,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    seed = zlib.crc32(name.encode())
    with torch.random.fork_rng(devices=[] if place.type == "cpu" else None), place:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation="sdpa")
    model = model.to(place).eval().requires_grad_(False)  # a step that does nothing where every part was made in its place
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        model.get_output_embeddings().weight.copy_(table.normal_(generator=torch.Generator(place).manual_seed(seed)).roll(_turn(seed, shape), 0))
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return model, tokenizer


def _turn(seed: int, shape: Shape) -> int:
    """By how many ids a token and its successor differ: two models of other names never agree."""
    return 1 + seed % (shape.vocabulary - 1)


def shape_of(name: str) -> Shape:
    """The sizes that a name stands for. Raises BadModel, which names those there are."""
    asked = name.removeprefix(PREFIX)
    if asked not in SHAPES:
        close = nearest(asked, list(SHAPES))
        step = f"Did you mean '{PREFIX}{close}'?" if close else None
        raise BadModel(f"there is no shape {asked!r} for random weights", expected="one of " + ", ".join(SHAPES), next_step=step)
    return SHAPES[asked]


@functools.cache
def bundled_tokenizer() -> Any:
    """The bundled target's, one for all: models that share the object share a vocabulary, without any comparison of its ids."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(zoo.path("target")))


def sharing(model: Any) -> Any:
    """A model of its own, settings included, around the same weights: a second copy of many gigabytes may not fit."""
    held = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, held)


def build_engine(name: str, dtype: Any, device: Any) -> TransformersModel:
    """The model as a `Target` or a drafting `Model`, to be made where a worker runs: a name travels better than its weights."""
    return TransformersModel(load(name, dtype, device)[0])
