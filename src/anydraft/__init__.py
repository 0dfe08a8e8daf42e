"""Any causal language model, any drafter, the same output: lossless speculative decoding.

>>> from anydraft import Speculator
"""

from importlib import import_module
from typing import TYPE_CHECKING

from anydraft.core.errors import AnydraftError

if TYPE_CHECKING:
    from anydraft.speculator import Generation, Speculator

__all__ = ["AnydraftError", "Generation", "Speculator"]


def __getattr__(name: str):
    # Loaded at first use: `anydraft --help` and everything that only asks the folders must not wait for torch.
    if name in ("Generation", "Speculator"):
        return getattr(import_module("anydraft.speculator"), name)
    raise AttributeError(f"module 'anydraft' has no attribute {name!r}")
