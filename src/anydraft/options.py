"""What users may ask of one generation, under transformers' names, turned into `Request`s. No option is ever dropped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydraft.core.errors import BadOption, BadPrompt, UnknownOption, nearest
from anydraft.core.noise import hashed
from anydraft.core.records import Request


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `Speculator.generate` and `stream`; greedy unless a temperature is given."""

    max_new_tokens: int = 256
    do_sample: bool | None = None  # True alone means temperature 1; False means temperature 0
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    suppress_tokens: Sequence[int] | None = None  # ids that may never be generated
    forced_tokens: Sequence[int] | None = None  # the first generated ids, in order
    min_new_tokens: int = 0
    stop_strings: str | Sequence[str] | None = None
    include_stop_str_in_output: bool = False
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    seed: int | Sequence[int] | None = None  # one, or one per prompt; None: drawn from torch's generator
    logits_processor: Any = None
    stopping_criteria: Any = None
    num_return_sequences: int = 1
    draft_temperature: float | None = None
    logprobs: int | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Options:
        """Checks names and values.

        Raises:
            UnknownOption: with the nearest known name.
            BadOption: a value that the option cannot take, or a decoding that is not speculative sampling.
        """
        if given.get("num_beams", 1) not in (1, None):
            raise BadOption(
                "beam search cannot be sped up losslessly by a draft",
                got=f"num_beams={given['num_beams']}",
                expected="num_beams=1",
                next_step="Sample with a temperature, or call transformers' generate for beams",
            )
        known = [f.name for f in dataclasses.fields(cls)]
        given = {name: value for name, value in given.items() if name != "num_beams"}
        for name in given:
            if name not in known:
                close = nearest(name, known)
                hint = f"Did you mean {close!r}?" if close else "The options are: " + ", ".join(known)
                raise UnknownOption(f"there is no generation option {name!r}", next_step=hint)
        options = cls(**given)
        options._check()
        return options

    def _check(self) -> None:
        need_int = {"max_new_tokens": 1, "top_k": 0, "min_new_tokens": 0, "num_return_sequences": 1}
        for name, least in need_int.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise BadOption(f"{name} is not usable", got=repr(value), expected=f"an integer >= {least}")
        bounds = {"top_p": (0.0, 1.0), "min_p": (0.0, 1.0), "repetition_penalty": (0.0, math.inf)}
        bounds |= {"temperature": (0.0, math.inf), "draft_temperature": (0.0, math.inf)}
        bounds |= {"presence_penalty": (-math.inf, math.inf), "frequency_penalty": (-math.inf, math.inf)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is None:
                continue
            wrong = not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value) or not low <= value <= high
            if wrong or math.isinf(value) or (name in ("top_p", "repetition_penalty") and value == 0):
                raise BadOption(f"{name} is not usable", got=repr(value), expected=f"a number from {low:g} to {high:g}")
        if self.do_sample is False and self.temperature:
            raise BadOption("do_sample=False contradicts a temperature", got=self.temperature, next_step="Leave one of them out")
        if self.do_sample and self.temperature == 0:
            raise BadOption("do_sample=True contradicts temperature=0", next_step="Leave one of them out")
        if self.logprobs is not None and (not isinstance(self.logprobs, int) or self.logprobs < 0):
            raise BadOption("logprobs is not usable", got=repr(self.logprobs), expected="a number of alternatives >= 0, or None")
        stops = _strings(self.stop_strings)
        if any(not isinstance(s, str) for s in stops):
            raise BadOption("stop_strings are not usable", got=repr(self.stop_strings), expected="a string, or several")
        if any(not s for s in stops):
            raise BadOption("a stop string is empty", expected="at least one character each")
        if any(math.isnan(v) for v in (self.logit_bias or {}).values()):
            raise BadOption("logit_bias holds NaN", got=dict(self.logit_bias or {}), expected="numbers; -inf bans a token")
        for name in ("logits_processor", "stopping_criteria"):
            for one in _several(getattr(self, name)):
                if not callable(one):
                    raise BadOption(f"{name} is not usable", got=repr(one), expected="something that can be called with (input_ids, scores)")

    @property
    def effective_temperature(self) -> float:
        """0 is greedy."""
        return float(self.temperature if self.temperature is not None else 1.0 if self.do_sample else 0.0)

    def requests(self, prompts: Sequence[Tensor], eos: Iterable[int], vocab_size: int, max_length: int | None) -> list[Request]:
        """One request per prompt and returned sequence, in prompt order.

        Args:
            prompts: i64[P] each.
            eos: the ids that end a text by the model's and tokenizer's configuration.
            vocab_size: V. max_length: ids the model can hold.
        """
        for n, prompt in enumerate(prompts):
            _check_prompt(prompt, n, vocab_size, max_length)
        for name in ("logit_bias", "suppress_tokens", "forced_tokens", "stop_token_ids"):
            for token in getattr(self, name) or ():
                if not 0 <= int(token) < vocab_size:
                    raise BadOption(f"{name} holds an id outside the vocabulary", got=token, expected=f"0..{vocab_size - 1}")
        ends = frozenset(() if self.ignore_eos else map(int, eos)) | frozenset(map(int, self.stop_token_ids or ()))
        base = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.effective_temperature,
            "logit_bias": dict(self.logit_bias or {}),
            "banned_tokens": tuple(map(int, self.suppress_tokens or ())),
            "forced_tokens": tuple(map(int, self.forced_tokens or ())),
            "eos": ends,
            "stop_strings": _strings(self.stop_strings),
            "logits_processor": _several(self.logits_processor),
            "stopping_criteria": _several(self.stopping_criteria),
        }
        same = ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_new_tokens")
        base |= {name: getattr(self, name) for name in (*same, "include_stop_str_in_output", "draft_temperature", "logprobs")}
        seeds = self._seeds(len(prompts))
        return [
            Request(prompt=prompt, seed=seed, **base) for prompt, first in zip(prompts, seeds) for seed in _spread(first, self.num_return_sequences)
        ]

    def _seeds(self, prompts: int) -> list[int]:
        if self.seed is None:
            return torch.randint(0, 2**62, (prompts,)).tolist()
        one = isinstance(self.seed, int)
        seeds = [self.seed] * prompts if one else list(self.seed) if isinstance(self.seed, Sequence) else [self.seed]
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**63:
                raise BadOption("seed is not usable", got=repr(seed), expected="an integer of at most 64 bits, or one per prompt")
        if len(seeds) != prompts:
            raise BadOption("seed does not fit the prompts", got=f"{len(seeds)} seeds", expected=f"one, or {prompts}")
        return [s for s in seeds if isinstance(s, int)]


def _spread(seed: int, n: int) -> list[int]:
    """n seeds of their own; the first is the given one, so that asking for more sequences does not change it."""
    return [seed] + [int(hashed(seed, j)[0] >> 2) for j in range(1, n)]


def _strings(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _several(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _check_prompt(prompt: Tensor, n: int, vocab_size: int, max_length: int | None) -> None:
    if len(prompt) == 0:
        raise BadPrompt(f"prompt {n} is empty", expected="at least one token", next_step="Start with the tokenizer's bos token, or with a word")
    if max_length is not None and len(prompt) >= max_length:
        raise BadPrompt(
            f"prompt {n} is longer than the model's context",
            got=f"{len(prompt)} tokens",
            expected=f"at most {max_length - 1}",
            next_step="Shorten the prompt, or use a model with a longer context",
        )
    low, high = int(prompt.min()), int(prompt.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise BadPrompt(
            f"prompt {n} holds an id that the model does not have",
            got=wrong,
            expected=f"0..{vocab_size - 1}",
            next_step="Use the tokenizer that belongs to the target model",
        )


def as_ids(prompt: Any, encode: Callable[[str], list[int]] | None) -> list[Tensor]:
    """Prompts in any accepted form: a string, ids, a tensor i64[P] or [B, P], or a list of strings or of ids."""
    if isinstance(prompt, str):
        if encode is None:
            raise BadPrompt("a text prompt needs a tokenizer", next_step="Pass token ids, or give the Speculator a tokenizer")
        return [torch.tensor(encode(prompt), dtype=torch.int64)]
    if isinstance(prompt, Tensor):
        if prompt.dtype.is_floating_point and prompt.numel() or prompt.dtype == torch.bool or prompt.ndim not in (1, 2):
            raise BadPrompt("a tensor is no token ids", got=f"{prompt.dtype} {tuple(prompt.shape)}", expected="integers [length] or [batch, length]")
        return [row.to("cpu", torch.int64) for row in (prompt if prompt.ndim == 2 else prompt[None])]
    if isinstance(prompt, Sequence) and prompt and all(isinstance(t, int) and not isinstance(t, bool) for t in prompt):
        return [torch.tensor(list(prompt), dtype=torch.int64)]
    if isinstance(prompt, Sequence) and prompt:
        return [ids for one in prompt for ids in as_ids(one if not (isinstance(one, list) and not one) else torch.zeros(0), encode)]
    raise BadPrompt("no prompt was given", got=repr(prompt), expected="a string, a list of strings, or token ids")
