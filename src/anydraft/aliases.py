"""Other names for what a Speculator takes: those of vLLM's `speculative_config` and of transformers' `GenerationConfig`.

Source of the names: vLLM's `SpeculativeConfig` and transformers' `GenerationConfig`. A value that is given twice must be given alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from anydraft.core.errors import BadOption, UnknownOption, nearest


class Named(NamedTuple):
    """The arguments of a Speculator under their own names."""

    assistant_model: Any
    method: str
    num_assistant_tokens: int | str
    options: dict[str, Any]


VLLM = {
    "method": "method",
    "model": "assistant_model",
    "num_speculative_tokens": "num_assistant_tokens",
    "prompt_lookup_max": "max_matching_ngram_size",
    "prompt_lookup_min": "min_matching_ngram_size",
}
"""Keys of a `speculative_config` and what they are called here."""

METHODS = {"ngram": "prompt_lookup", "[ngram]": "prompt_lookup"}
"""vLLM's names of methods that have another one here; the others are the same or are refused as unknown methods."""


def resolve(assistant_model: Any, method: str, num_assistant_tokens: int | str, options: Mapping[str, Any]) -> Named:
    """Brings every alias among the options to its own name.

    Args:
        options: what was given by keyword beside the first three.
    Raises:
        BadOption: one thing given twice, differently. UnknownOption: a key that `speculative_config` does not have.

    >>> resolve(None, "auto", "auto", {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}})
    Named(assistant_model=None, method='prompt_lookup', num_assistant_tokens=4, options={'max_matching_ngram_size': 3})
    """
    given = _Given(assistant_model=assistant_model, method=method, num_assistant_tokens=num_assistant_tokens)
    for name, value in options.items():
        if name == "draft_model":
            given.put("assistant_model", value, name)
        elif name == "num_speculative_tokens":
            given.put("num_assistant_tokens", value, name)
        elif name == "prompt_lookup_num_tokens":
            if value is not None:
                given.put("method", "prompt_lookup", name)
                given.put("num_assistant_tokens", value, name)
        elif name != "speculative_config":
            given.put(name, value, name)
    _from_vllm(options.get("speculative_config"), given)
    values = given.values
    return Named(values.pop("assistant_model"), values.pop("method"), values.pop("num_assistant_tokens"), values)


def _from_vllm(config: Any, given: _Given) -> None:
    if config is None:
        return
    if not isinstance(config, Mapping):
        raise BadOption("speculative_config is not usable", got=repr(config), expected="a dictionary with vLLM's keys: " + ", ".join(VLLM))
    for key, value in config.items():
        where = f"speculative_config[{key!r}]"
        if key not in VLLM:
            close = nearest(str(key), VLLM)
            hint = f"Did you mean {close!r}?" if close else "Its keys are: " + ", ".join(VLLM)
            raise UnknownOption(f"speculative_config has no key {key!r} here", next_step=hint)
        if key in ("method", "model") and isinstance(value, str) and value in METHODS:
            given.put("method", METHODS[value], where)
        elif value is not None:
            given.put(VLLM[key], value, where)


class _Given:
    """What was given, and by which name."""

    def __init__(self, **values: Any):
        self.values = values
        self._by = dict.fromkeys(values, "")

    def put(self, name: str, value: Any, by: str) -> None:
        held = self.values.get(name)
        if _unset(value):
            self.values.setdefault(name, value)
            return
        free = _unset(held)
        if not free and held is not value and not _equal(held, value):
            first = self._by.get(name) or name
            raise BadOption(
                f"{first} and {by} say different things",
                got=f"{_shown(held)} and {_shown(value)}",
                expected="one of them",
                next_step=f"{by} is another name for {name}" if by != name else None,
            )
        self.values[name], self._by[name] = (value if free else held), by if free else self._by.get(name, "")


def _unset(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value == "auto")


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, (str, int)) and isinstance(b, (str, int)) and a == b


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
