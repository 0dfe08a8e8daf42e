"""Which models meet: a target, perhaps a drafter, and whether they share a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydraft import zoo
from anydraft.bench import random_weights
from anydraft.loading import load


@dataclass(frozen=True, slots=True)
class Settings:
    """What every contender is asked for alike."""

    lookaheads: tuple[int, ...] = (5,)
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 1
    dtype: Any = None
    device: str | None = None
    forced_acceptance: float | None = None  # peers cannot be steered, so then only their plain decoding takes part


@dataclass(frozen=True, slots=True)
class Pair:
    """A loaded target and drafter. `names` are what the user wrote, without any folder: they go into reports."""

    target_name: str
    drafter_name: str | None
    where: tuple[str, str | None]  # folders or hub names, to load fresh copies from
    target: Any
    tokenizer: Any
    drafter: Any = None
    drafter_tokenizer: Any = None
    settings: Any = None
    kept: dict[Any, Any] = field(default_factory=dict)  # what peers made once for a pair

    @classmethod
    def load(cls, target: str, drafter: str | None = None, *, dtype: Any = None, device: str | None = None) -> Pair:
        """Loads both by bundled name ("target", "draft-bpe"), "random:NAME", folder or hub name.

        Raises:
            BadModel: nothing that can be loaded is there.
        """
        settings = {"dtype": dtype, "device_map": device}
        places = (located(target), located(drafter) if drafter else None)
        model, tokenizer = opened(places[0], **settings)
        own = opened(places[1], **settings) if places[1] else (None, None)
        return cls(Path(target).name, Path(drafter).name if drafter else None, places, model, tokenizer, *own, settings)

    @property
    def same_vocabulary(self) -> bool:
        """Whether the drafter's ids mean what the target's mean."""
        return self.drafter is not None and self.tokenizer.get_vocab() == self.drafter_tokenizer.get_vocab()

    @property
    def ends(self) -> list[int]:
        """Ids that end a text: the target's generation configuration's and its tokenizer's."""
        told = getattr(getattr(self.target, "generation_config", None), "eos_token_id", None)
        held = [*(told if isinstance(told, (list, tuple)) else [told]), getattr(self.tokenizer, "eos_token_id", None)]
        return sorted({int(one) for one in held if one is not None})

    def fresh_target(self) -> Any:
        """A copy of the target from its files, for a peer that may change it; random weights are shared."""
        return self._fresh(self.where[0], self.target)

    def fresh_drafter(self) -> Any:
        """A copy of the drafter from its files, for a peer that may change it; random weights are shared."""
        return self._fresh(self.where[1], self.drafter)

    def _fresh(self, where: Any, held: Any) -> Any:
        return random_weights.sharing(held) if random_weights.is_random(where) else load(where, **self.settings)[0]


def opened(where: str, dtype: Any = None, device_map: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a place that `located` gave. Raises BadModel: nothing that can be loaded is there."""
    if random_weights.is_random(where):
        return random_weights.load(where, dtype, device_map)
    return load(where, dtype=dtype, device_map=device_map)


def located(name: str) -> str:
    """A bundled model's folder, or the name as it is."""
    return str(zoo.path(name)) if name in zoo.MODELS else name
