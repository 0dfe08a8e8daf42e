"""Names a model by its content: files that were made for one model must not be used with another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SAMPLE = 256  # numbers taken from each of the tensors that are looked at


def fingerprint(model: Any) -> str:
    """Sixteen hexadecimal digits from the model's shape and a sample of its weights; the same for every dtype they are loaded in.

    Args:
        model: a `PreTrainedModel`.
    """
    shape = {name: list(weight.shape) for name, weight in model.named_parameters()}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    weights = dict(model.named_parameters())
    for name in sorted(weights)[:: max(1, len(weights) // 8)]:
        flat = weights[name].detach().reshape(-1)
        picked = flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE]
        # bfloat16 is the coarsest that a checkpoint is usually loaded in
        digest.update(picked.float().cpu().bfloat16().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def pair(target: Any, drafter: Any) -> str:
    """Sixteen hexadecimal digits for two models in their roles."""
    return hashlib.sha256(f"{fingerprint(target)}>{fingerprint(drafter)}".encode()).hexdigest()[:16]
