"""Loads a causal language model and its tokenizer by name or folder, and says clearly what is wrong when it cannot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from anydraft.core.errors import BadModel

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # placements over several devices, which need accelerate


def load(
    model: Any, tokenizer: Any = None, *, revision: str | None = None, dtype: Any = None, device_map: Any = None, **settings: Any
) -> tuple[Any, Any]:
    """(model, tokenizer), the model in eval mode with an attention that takes masks.

    Args:
        model: a folder or a hub name; a loaded model is returned as it is.
        tokenizer: a folder, a hub name or a loaded tokenizer; None: the model's own.
        dtype: None is float32 on a CPU and the checkpoint's own on an accelerator.
    Raises:
        BadModel: nothing that can be loaded is there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shared = {"revision": revision, "trust_remote_code": settings.pop("trust_remote_code", False)}
    shared = {key: value for key, value in shared.items() if value}
    where = str(model) if isinstance(model, (str, Path)) else None
    if where is None:
        return model, tokenizer
    _check_folder(where)
    on_cpu = not torch.cuda.is_available() if device_map is None else str(device_map) == "cpu"
    if device_map is None and not on_cpu:
        device_map = "auto" if find_spec("accelerate") else "cuda"
    device = None  # one device is a matter of moving the model there, and needs no accelerate
    if isinstance(device_map, (str, torch.device)) and str(device_map) not in SPREAD:
        device, device_map = device_map, None
    settings = {key: value for key, value in settings.items() if value is not None}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype or (torch.float32 if on_cpu else "auto"), device_map=device_map, **shared, **settings
        )
        own = tokenizer if tokenizer is not None else where
        if isinstance(own, (str, Path)):
            own = AutoTokenizer.from_pretrained(str(own), **shared)
    except (OSError, ValueError, KeyError, ImportError) as cause:
        raise BadModel(
            f"{where!r} cannot be loaded as a causal language model",
            got=str(cause).strip().splitlines()[0],
            expected="a folder or hub name with a configuration, safetensors weights and a tokenizer",
            next_step="Check the name; pickled weights need use_safetensors=False, a repository's own code trust_remote_code=True",
        ) from cause
    if device is not None:
        loaded.to(str(device))  # type: ignore[arg-type]  # transformers wraps the method in a way that hides its signature
    return loaded.eval(), own


def _check_folder(where: str) -> None:
    """A path that is clearly meant as a folder and is not one deserves a plain answer."""
    path = Path(where)
    looks_local = where.startswith((".", "/", "~")) or where.count("/") > 1 or path.exists()
    if looks_local and not path.is_dir():
        expected = "a folder with a model, or a hub name such as org/name"
        raise BadModel(f"there is no folder {where!r}", expected=expected, next_step="Check the path")
    if looks_local and not (path / "config.json").is_file():
        step = "Give the folder that save_pretrained wrote"
        raise BadModel(f"the folder {where!r} holds no model", expected="a config.json in it", next_step=step)
