"""Tiny random models of every architecture that the engine is proved on, and the reference that it must equal: no cache, one path."""

import types

import pytest
import torch
import transformers as hf
from torch import Tensor

from anydraft.core.records import DETERMINED, Context, Draft, Request

VOCAB = 61
POSITIONS = 192
WINDOW = 6  # shorter than every prompt used with it

_SIZE = {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_MLP = {"intermediate_size": 48}
_GROUPED = {"num_key_value_heads": 2}
_GPT = {"vocab_size": VOCAB, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4} | _ENDS
_GEMMA = {"head_dim": 8, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}

ARCHITECTURES = {
    "llama": ("Llama", _SIZE | _MLP | _GROUPED),
    "gpt_neox": ("GPTNeoX", _SIZE | _MLP | {"rotary_pct": 0.5}),
    "gpt_neox_sequential": ("GPTNeoX", _SIZE | _MLP | {"use_parallel_residual": False}),
    "qwen2": ("Qwen2", _SIZE | _MLP | _GROUPED),
    "qwen2_sliding": ("Qwen2", _SIZE | _MLP | _GROUPED | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "mistral": ("Mistral", _SIZE | _MLP | _GROUPED | {"sliding_window": None}),
    "mistral_sliding": ("Mistral", _SIZE | _MLP | _GROUPED | {"sliding_window": WINDOW}),
    "gpt2": ("GPT2", _GPT),
    "gemma2": ("Gemma2", _SIZE | _MLP | _GROUPED | _GEMMA),
    "gemma3": ("Gemma3", _SIZE | _MLP | _GROUPED | _GEMMA),
    "phi": ("Phi", _SIZE | _MLP),
    "opt": ("OPT", _SIZE | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_bigcode": ("GPTBigCode", _GPT | {"multi_query": True}),
    "falcon": ("Falcon", _SIZE | {"alibi": False, "new_decoder_architecture": False}),
    "olmo2": ("Olmo2", _SIZE | _MLP | _GROUPED),
    "qwen3": ("Qwen3", _SIZE | _MLP | _GROUPED | {"head_dim": 8}),
    "gptj": ("GPTJ", _GPT | {"rotary_dim": 4}),
    "starcoder2_sliding": ("Starcoder2", _SIZE | _MLP | _GROUPED | {"sliding_window": WINDOW}),
    "cohere": ("Cohere", _SIZE | _MLP | _GROUPED),
    "stablelm": ("StableLm", _SIZE | _MLP | _GROUPED),
    "mixtral": ("Mixtral", _SIZE | _MLP | _GROUPED | {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None}),
}
SLIDING = ("qwen2_sliding", "mistral_sliding", "gemma2", "gemma3", "starcoder2_sliding")


def config_of(name: str, **changes):
    kind, settings = ARCHITECTURES[name]
    maker = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    return getattr(hf, maker)(**(_ENDS | settings | changes))


def tiny(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, attention: str | None = None, **changes):
    """A random model in eval mode, its weights large enough that a wrong mask is seen."""
    torch.manual_seed(seed)
    config = config_of(name, **changes)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()  # None: transformers' own choice
    with torch.no_grad():
        for one in model.parameters():
            if one.ndim > 1:
                one.normal_(0.0, 0.25)
    return model.to(dtype)


def reference(model, ids: list[int]) -> Tensor:
    """f[S, V]: logits after every prefix of these ids, by one forward without a cache."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def context_of(rows: list[list[int]], max_new_tokens: int = 40, slots: list[int] | None = None) -> Context:
    return Context.start([Request(prompt=torch.tensor(ids), max_new_tokens=max_new_tokens) for ids in rows], slots, POSITIONS)


def draft_of(tokens: list[list[int]], parent: list[list[int]]) -> Draft:
    t, p = torch.tensor(tokens), torch.tensor(parent)
    chain = torch.equal(p, (torch.arange(p.shape[1]) - 1).expand_as(p))
    return Draft(tokens=t, parent=p, live=torch.ones_like(t, dtype=torch.bool), kind=torch.full_like(t, DETERMINED),
                 index=torch.full_like(t, -1), levels=p.shape[1], chain=chain)  # fmt: skip


def paths_of(ids: list[int], tokens: list[int], parent: list[int]) -> list[list[int]]:
    """The ids that lead to the root and to every node."""
    paths = [ids]
    for token, above in zip(tokens, parent):
        paths.append(paths[above + 1] + [token])
    return paths


def expected(model, ids: list[int], tokens: list[int] = (), parent: list[int] = ()) -> Tensor:
    """f[1 + N, V]: the reference for the root and every node, by one forward from the first id to every leaf."""
    paths = paths_of(ids, list(tokens), list(parent))
    want: list[Tensor | None] = [None] * len(paths)
    for leaf in range(len(paths) - 1, -1, -1):
        if want[leaf] is None:
            logits = reference(model, paths[leaf])
            for n, path in enumerate(paths):
                if want[n] is None and path == paths[leaf][: len(path)]:
                    want[n] = logits[len(path) - 1]
    return torch.stack(want)


@pytest.fixture(scope="session")
def kit():
    """Everything of this file that tests call."""
    names = ("tiny", "config_of", "reference", "prompts", "context_of", "draft_of", "paths_of", "expected", "VOCAB", "POSITIONS", "WINDOW")
    return types.SimpleNamespace(**{name: globals()[name] for name in names})


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request):
    return tiny(request.param)


@pytest.fixture(scope="module", params=SLIDING)
def sliding(request):
    return tiny(request.param)
