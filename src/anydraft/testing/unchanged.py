"""A fingerprint of a model, to show that whoever borrowed it gave it back as it was."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fingerprint(model: Any) -> str:
    """One word that changes when a weight, buffer, configuration, mode, hook or submodule of the model does.

    Args:
        model: a torch module; None gives the empty word.
    """
    if model is None:
        return ""
    told = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad} {tensor.device}".encode())
        told.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, module in model.named_modules():
        hooks = [len(getattr(module, kind, ())) for kind in _HOOKS]
        told.update(f"{name} {type(module).__name__} {module.training} {hooks} {'forward' in vars(module)}".encode())
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        told.update(config.to_json_string(use_diff=False).encode() if config is not None else b"none")
    return told.hexdigest()
