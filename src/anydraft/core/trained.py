"""Small trained parts of one pair of models: weights with what they were trained for, and the refusal to use them for anything else."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anydraft.core.errors import BadModel, WrongPair


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training recipe left behind.

    `kind` is the control's name; `pair` identifies target and drafter; `temperature` is that of the traces; `settings` are the
    control's numbers, chosen by the recipe; `notes` say how it went.
    """

    kind: str
    pair: str
    temperature: float
    weights: dict[str, Tensor]
    settings: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes one safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"kind": self.kind, "pair": self.pair, "temperature": self.temperature, "settings": self.settings, "notes": self.notes}
        save_file({name: w.detach().float().contiguous() for name, w in self.weights.items()}, path, {"anydraft": json.dumps(told)})

    @classmethod
    def load(cls, path: str | Path, kind: str) -> Trained:
        """Reads what `save` wrote.

        Raises:
            BadModel: no such file, or not one of this kind.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                told = json.loads((file.metadata() or {})["anydraft"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
        except (OSError, SafetensorError, KeyError, ValueError) as cause:
            raise BadModel(
                f"{str(path)!r} holds no trained control",
                got=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
                expected="a file written by `anydraft train`",
                next_step=f"Run `anydraft train {kind}` for this pair",
            ) from cause
        if told.get("kind") != kind:
            raise BadModel(f"{str(path)!r} was trained for another control", got=told.get("kind"), expected=kind)
        return cls(kind, told["pair"], float(told["temperature"]), weights, told.get("settings", {}), told.get("notes", {}))

    def check_pair(self, pair: str | None, force: bool) -> None:
        """Raises WrongPair if the models are not those that it was trained with; only warns with `force`."""
        if pair is not None and pair != self.pair:
            self._refuse(f"the {self.kind} file was trained for another pair of models", got=pair, expected=self.pair, force=force)

    def check_temperature(self, temperature: float, force: bool) -> None:
        """Raises WrongPair if a request's temperature is not that of the training; only warns with `force`."""
        if abs(temperature - self.temperature) > 1e-6:
            self._refuse(
                f"the {self.kind} file was trained for another temperature", got=temperature, expected=self.temperature, force=force
            )

    def _refuse(self, what: str, *, got: Any, expected: Any, force: bool) -> None:
        if not force:
            raise WrongPair(
                what, got=got, expected=expected, next_step=f"Train it again with `anydraft train {self.kind}`, or pass force=True"
            )
        warnings.warn(f"{what} (got: {got}; expected: {expected}); used anyway, as asked", stacklevel=4)


def find(kind: str, weights: str | Path | None, shipped: Path | None, pair: str | None) -> Trained:
    """The file given, or else the one that is bundled for this pair.

    Raises:
        BadModel: neither is there.
    """
    if weights is not None:
        return Trained.load(weights, kind)
    bundled = None if shipped is None or pair is None else shipped / f"{kind}-{pair}.safetensors"
    if bundled is None or not bundled.is_file():
        raise BadModel(
            f"the {kind} control needs a file trained for this pair",
            got="no weights",
            expected=f"weights='{kind}.safetensors'",
            next_step=f"Run `anydraft train {kind}` first, or use control='survival', which needs no training",
        )
    return Trained.load(bundled, kind)
