"""One look at an architecture that no test has proved: does the model obey the slots, the tree mask and the positions it is given?

Some models build a causal mask of their own, read the cache's length instead of the positions, or are encoders in disguise. They
would return wrong logits without any error, so a model of an unknown kind scores one small tree, and the result is compared
with cache-free forwards.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from anydraft.core.errors import AnydraftError, UnsupportedModel
from anydraft.core.records import DETERMINED, Context, Draft, Request

PROVED = frozenset(
    ("llama", "gpt_neox", "qwen2", "mistral", "gpt2", "gemma2", "gemma3_text", "phi", "opt")
    + ("gpt_bigcode", "falcon", "olmo2", "qwen3", "gptj", "starcoder2", "cohere", "stablelm", "mixtral")
)
"""Values of `config.model_type` that tests/engine proves on this and on the oldest supported release of transformers."""

_PARENT = (-1, -1, 0, 1, 2)
_seen: weakref.WeakSet[Any] = weakref.WeakSet()


def probe(engine: Any) -> None:
    """Scores two ragged rows and a branching draft, once per model.

    Args:
        engine: a `TransformersModel` that has not run yet; it is reset afterwards.
    Raises:
        UnsupportedModel: the logits are not those of the model without a cache.
    """
    model = engine.model
    if model.config.model_type in PROVED or model in _seen:
        return
    name = type(model).__name__
    try:
        error = _error(engine)
    except AnydraftError:
        raise
    except Exception as cause:  # whatever an unknown architecture trips over
        lines = str(cause).strip().splitlines() or [""]
        raise UnsupportedModel(
            f"{name} cannot run with the cache and mask that trees of draft tokens need",
            got=f"{type(cause).__name__}: {lines[0]}",
            next_step="Use another architecture, or transformers' own generate for this one",
        ) from cause
    finally:
        engine.reset()
        engine.forwards = 0
    allowed = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.15
    if not error < allowed:
        raise UnsupportedModel(
            f"{name} does not obey the mask and positions that trees of draft tokens need: its logits differ from a run without a cache",
            got=f"a relative error of {error:.2g}",
            expected=f"less than {allowed:g}",
            next_step="Use another architecture, or transformers' own generate for this one",
        )
    _seen.add(model)


def _error(engine: Any) -> float:
    """Largest difference to the cache-free logits, in units of their largest value."""
    spread = [(7 * i + 3) % engine.vocab_size for i in range(24)]
    rows, tokens = [spread[:9], spread[9:14]], [spread[14:19], spread[19:24]]
    context = Context.start([Request(prompt=torch.tensor(row), max_new_tokens=8) for row in rows])
    ids = torch.tensor(tokens)
    parent = torch.tensor([_PARENT, _PARENT])
    draft = Draft(
        tokens=ids,
        parent=parent,
        live=torch.ones_like(ids, dtype=torch.bool),
        kind=torch.full_like(ids, DETERMINED),
        index=torch.full_like(ids, -1),
        levels=3,
        chain=False,
    )
    logits = engine.score(context, draft).logits
    worst = 0.0
    for b, row in enumerate(rows):
        paths = [row]
        for token, above in zip(tokens[b], _PARENT):
            paths.append(paths[above + 1] + [token])
        want = torch.stack([_plain(engine, path) for path in paths]).float()
        worst = max(worst, float((logits[b].float() - want).abs().max() / want.abs().max().clamp_min(1e-6)))
    return worst


def _plain(engine: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        return engine.model(input_ids=torch.tensor([ids], device=engine.device), use_cache=False).logits[0, -1]
