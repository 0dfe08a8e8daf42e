"""Masks for ragged rows and draft trees: 4-D, additive, explicit about every slot.

A 4-D mask replaces the model's own, sliding windows included, so the window is applied here: by position and not by slot,
because the nodes of a tree stand in slots whose order is not their depth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anydraft.core.errors import UnsupportedModel

OWN_MASK = {"gpt_neo": "builds its causal and local masks itself and ignores the one it is given"}
RECURRENT = ("mamba", "recurrent", "linear_attention", "conv", "rwkv", "hybrid", "ssm")


def layer_windows(config: Any) -> dict[str, int | None]:
    """{layer type: window or None}: which masks the model wants; one entry if all layers are alike.

    Raises:
        UnsupportedModel: a layer keeps state that cannot be masked or rolled back.
    """
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    if not types:
        return {"sliding_attention": window} if window else {"full_attention": None}
    kinds = {"full_attention": None, "sliding_attention": window}
    foreign = sorted(set(types) - kinds.keys())
    if foreign:
        raise UnsupportedModel(
            f"{type(config).__name__} has layers that cannot be rolled back or masked",
            got=", ".join(foreign),
            expected="full_attention or sliding_attention layers",
            next_step="Use a transformer whose layers all attend, or method='none' through transformers itself",
        )
    return {kind: kinds[kind] for kind in dict.fromkeys(types)}


def longest_text(text: Any) -> int | None:
    """Ids that a model with this (text) configuration holds, None for no bound.

    Rotary embeddings of the kinds "dynamic" and "longrope" change their frequencies when the text outgrows the original length, so that
    keys already cached were made by other frequencies than new ones: no cached run equals a cache-free one beyond that length.
    """
    longest = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    bounds = [part.get("original_max_position_embeddings") for part in parts if part.get("rope_type") in ("dynamic", "longrope")]
    return min([n for n in (longest, *bounds) if n], default=None)


def refuse_unsupported(model: Any) -> None:
    """Raises UnsupportedModel for what cannot be rolled back (recurrent state), masked (ALiBi) or repeated (training mode)."""
    config = model.config
    name = type(model).__name__
    kind = getattr(config, "model_type", "")
    if model.training:
        raise UnsupportedModel(f"{name} is in training mode, where dropout makes forwards random", next_step="Call .eval() on it first")
    if kind in OWN_MASK:
        raise UnsupportedModel(f"{name} {OWN_MASK[kind]}", got=kind, expected="a model that uses its attention_mask")
    if getattr(config, "alibi", False) or kind in {"bloom", "mpt"} or getattr(getattr(config, "attn_config", None), "alibi", False):
        raise UnsupportedModel(
            f"{name} uses ALiBi, whose biases cannot be combined with a tree mask",
            got=kind,
            expected="rotary or learned positions",
            next_step="Use a model with rotary or learned positions",
        )
    if getattr(model, "_is_stateful", False) or any(word in kind for word in RECURRENT):
        raise UnsupportedModel(
            f"{name} keeps recurrent state, which cannot be rolled back to the last accepted token",
            got=kind,
            expected="a model whose only state is a key-value cache",
            next_step="Use a pure attention model",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder model", got=kind, expected="a causal language model")
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if getattr(text, "num_kv_shared_layers", 0):
        raise UnsupportedModel(f"{name} shares keys and values between layers", got=kind, expected="one cache entry per layer")
    if getattr(config, "_attn_implementation", "sdpa") not in ("sdpa", "eager"):
        raise UnsupportedModel(
            f"{name} was loaded with an attention that takes no 4-D mask",
            got=config._attn_implementation,
            expected="sdpa or eager",
            next_step="Load it with attn_implementation='sdpa'",
        )


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """f[B, 1, T, used]: 0 where allowed bool[B, T, used], else the dtype's smallest number."""
    mask = torch.full(allowed.shape, torch.finfo(dtype).min, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(allowed, 0.0)[:, None]


def windowed(allowed: Tensor, query: Tensor, key: Tensor, window: int) -> Tensor:
    """bool[B, T, used]: `allowed`, but no key `window` or more positions behind its query (query i64[B, T], key i64[B, used])."""
    return allowed & (query[:, :, None] - key[:, None, :] < window)


def with_tree(allowed: Tensor, slots: Tensor, key: Tensor, base: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(allowed bool[B, C, used], position i64[B, C], key position i64[B, used]) when the last columns are nodes of a tree.

    A node sees the context and its ancestors; it stands at the context's end plus its depth, whatever its slot.
    """
    batch, columns, used = allowed.shape
    nodes = above.shape[1]
    fed = min(nodes, columns)  # a growing tree feeds its newest level only; a score feeds every node, behind some context
    node_slots = base + torch.arange(nodes, device=base.device)
    depth = base - 1 + above.sum(-1)
    seen = (torch.arange(used, device=base.device) < base[:, :, None]).expand(batch, fed, used).clone()
    seen.scatter_(2, node_slots[:, None, :].expand(batch, fed, nodes), above[:, nodes - fed :])
    key = key.clone().scatter_(1, node_slots, depth)
    position = torch.cat([slots[:, : columns - fed], depth[:, nodes - fed :]], 1)
    return torch.cat([allowed[:, : columns - fed], seen], 1), position, key
