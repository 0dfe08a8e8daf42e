"""transformers' own `generate` behind the interface of a `Speculator`: the reference that shares none of our loop, cache or rules."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Nothing:
    """The metrics of a decoding that drafts nothing."""

    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    per_step_drafted: tuple[int, ...] = ()
    per_step_accepted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """New ids, the one that ended the text included."""

    token_ids: list[int]
    metrics: Nothing = field(default_factory=Nothing)


@dataclass(frozen=True, slots=True)
class Reference:
    """Args:
    model: the target, as transformers has it. ends: ids that end a text.
    """

    model: Any
    ends: Collection[int]

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float = 0.0, seed: Sequence[int] | None = None,
        top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0,
    ) -> list[Text]:  # fmt: skip
        """Continues every prompt; those of one length share a batch, so nothing is padded on the left. One seed serves a batch."""
        made: dict[int, Text] = {}
        sampled = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p or None}
        for length in sorted({len(prompt) for prompt in prompts}):
            rows = [n for n, prompt in enumerate(prompts) if len(prompt) == length]
            if temperature == 0:  # one row at a time: what a greedy text is must not depend on its neighbours
                for n in rows:
                    made[n] = self._run([prompts[n]], max_new_tokens, repetition_penalty, {"do_sample": False})[0]
                continue
            torch.manual_seed(random.Random(seed[rows[0]] if seed else 0).getrandbits(31))  # torch reads the low 32 bits of a seed only
            made |= zip(rows, self._run([prompts[n] for n in rows], max_new_tokens, repetition_penalty, sampled))
        return [made[n] for n in range(len(prompts))]

    @torch.inference_mode()
    def _run(self, prompts: Sequence[Sequence[int]], tokens: int, repetition_penalty: float, options: dict[str, Any]) -> list[Text]:
        ids = torch.tensor([list(prompt) for prompt in prompts], device=self.model.device)
        ends = sorted(self.ends)
        made = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0,
            repetition_penalty=repetition_penalty,  # also where it is 1: a checkpoint may bring another default
            **options,
        )  # fmt: skip
        return [Text(self._cut(row)) for row in made[:, ids.shape[1] :].tolist()]

    def _cut(self, row: list[int]) -> list[int]:
        """Without the padding behind the first id that ends the text."""
        return next((row[: place + 1] for place, token in enumerate(row) if token in self.ends), row)
