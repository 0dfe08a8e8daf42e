"""Some rows of a model's head: the logits of a part of the vocabulary, without touching the model.

Source: head pruning as in Timor et al. 2025, arXiv:2502.05202, and FR-Spec, arXiv:2502.14856. The gathered rows are a copy beside the user's
model. What a model does to logits behind its head (soft caps, scales) is not guessed: the rows are checked once against the model itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HeadRows:
    """Rows `ids` i64[I] of the output embedding.

    Where the model's logits are not plain products of its last hidden state and its head, `body` is the whole model and the logits of
    `ids` are picked from its output.
    """

    def __init__(self, model: Any, ids: Tensor):
        self.ids = ids
        head = model.get_output_embeddings()
        self.body: Any = getattr(model, model.base_model_prefix, None)
        self.plain = head is not None and self.body is not None and self.body is not model
        if self.plain:
            at = ids.to(head.weight.device)
            self.weight = head.weight.detach()[at]
            bias = getattr(head, "bias", None)
            self.bias = None if bias is None else bias.detach()[at]
            self.plain = self._agrees(model)
        if not self.plain:
            self.body = _Picking(model, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """f[B, M, I] from the last hidden states f[B, M, D]."""
        return torch.nn.functional.linear(hidden, self.weight, self.bias) if self.plain else hidden

    def _agrees(self, model: Any) -> bool:
        """Whether gathered rows give what the model gives, on a two-token text."""
        with torch.inference_mode():
            device = model.get_input_embeddings().weight.device
            probe = self.ids[:2].to(device)[None]
            try:
                full = model(input_ids=probe, use_cache=False).logits[..., self.ids.to(device)]
                mine = self.logits(self.body(input_ids=probe, use_cache=False).last_hidden_state)
            except (AttributeError, TypeError, RuntimeError, ValueError):
                return False
        return full.shape == mine.shape and torch.allclose(full.float(), mine.float(), rtol=1e-2, atol=1e-2)


class _Picking:
    """The whole model, giving the logits of some ids where a body would give hidden states."""

    def __init__(self, model: Any, ids: Tensor):
        self.model, self.ids = model, ids

    def __call__(self, **inputs: Any) -> _Picked:
        logits = self.model(**inputs).logits
        return _Picked(logits[..., self.ids.to(logits.device)])


class _Picked:
    def __init__(self, last_hidden_state: Tensor):
        self.last_hidden_state = last_hidden_state
