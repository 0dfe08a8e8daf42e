"""The target's mean law: which tokens matter, for pruning a drafter's head and for moving its mass.

Source: FR-Spec, arXiv:2502.14856 (frequencies); redistributing drafter kernels, arXiv:2506.03206 (mean target probability).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anydraft.core.errors import BadModel, BadOption, WrongVocabulary
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection
from anydraft.vocabulary.pruning import prune, required_ids


def save_mean_law(path: str | Path, mean: Tensor, vocabulary: ByteVocabulary, seen: int) -> None:
    """Writes f[V] with the digest of the vocabulary it belongs to, and how many laws it is the mean of; replaces the file in one step."""
    part = Path(f"{path}.part")
    save_file({"mean_law": mean.float().contiguous()}, str(part), metadata={"vocabulary": vocabulary.tag, "seen": str(seen)})
    part.replace(path)


def mean_law(statistics: Any, vocabulary: ByteVocabulary, method: str) -> Tensor:
    """f64[V] from a file that `anydraft calibrate` wrote, or from a tensor.

    Raises:
        BadOption: nothing was given. BadModel: the file is none of ours. WrongVocabulary: it was measured on another tokenizer.
    """
    if statistics is None:
        raise BadOption(
            f"{method} needs the target's token statistics",
            expected="statistics=FILE",
            next_step="Write that file with 'anydraft calibrate rdk'; method='tli' needs none",
        )
    if isinstance(statistics, Tensor):
        mean = statistics.double()
    else:
        mean = _read(Path(statistics), vocabulary)
    if len(mean) != vocabulary.width:
        raise WrongVocabulary("the statistics are of another vocabulary", got=f"{len(mean)} tokens", expected=f"{vocabulary.width}")
    if not bool(torch.isfinite(mean).all()) or bool((mean < 0).any()) or not float(mean.sum()) > 0:
        raise BadOption("the statistics are no law", expected="non-negative numbers with a positive sum")
    return mean / mean.sum()


def _read(path: Path, vocabulary: ByteVocabulary) -> Tensor:
    if not path.is_file():
        raise BadModel("there is no statistics file", got=str(path), next_step="Write one with 'anydraft calibrate rdk'")
    try:
        with safe_open(str(path), "pt") as file:
            tag, mean = (file.metadata() or {}).get("vocabulary"), file.get_tensor("mean_law").double()
    except (SafetensorError, OSError) as cause:
        raise BadModel("the statistics file cannot be read", got=str(path), expected="a file written by 'anydraft calibrate rdk'") from cause
    if tag != vocabulary.tag:
        raise WrongVocabulary("the statistics were measured on another tokenizer", got=str(path), next_step="Measure them again on this target")
    return mean


def kept_tokens(both: Intersection, mean: Tensor, keep_share: float) -> Tensor:
    """bool[I]: which common tokens stay when `keep_share` of them is kept, the most probable ones and those that may never go."""
    if not both.size:  # whoever asked says so, and names the method that works
        return torch.zeros(0, dtype=torch.bool)
    chosen = torch.zeros(len(mean), dtype=torch.bool)
    chosen[required_ids(both.target)] = True
    required = chosen[both.target_ids].nonzero().flatten()
    keep = torch.zeros(both.size, dtype=torch.bool)
    keep[prune(mean[both.target_ids], keep_share, required).ids] = True
    return keep
