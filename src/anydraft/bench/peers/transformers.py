"""transformers' own generation: plain, assisted, universal (SLEM), sampled other-vocabulary (TLI), prompt lookup.

Every contender has a target and a drafter of its own, freshly loaded: sampling with a drafter of another vocabulary rewrites
that drafter for good (seen in 5.23), and lookahead settings are written into its generation config.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from anydraft.bench.measure import Job, Outcome, Stopwatch
from anydraft.bench.pairs import Pair, Settings


class Generate:
    """`model.generate` with some keywords.

    Args:
        target: a model of its own. assistant: a drafter of its own, or None.
        keywords: further arguments of `generate`.
    """

    system = "transformers"

    def __init__(self, name: str, target: Any, assistant: Any = None, **keywords: Any):
        self.name, self.target = f"transformers {name}", target
        self.keywords = {"repetition_penalty": 1.0, **keywords, **({"assistant_model": assistant} if assistant is not None else {})}
        ends = target.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends]) - {None}

    def run(self, job: Job) -> Outcome:
        """See `Contender.run`."""
        longest = max(map(len, job.prompts))
        pad = min(self.ends, default=0)
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in job.prompts], device=self.target.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in job.prompts], device=self.target.device)
        clock = FirstToken() if len(job.prompts) == 1 else None  # transformers streams single requests only
        options = {"do_sample": True, "temperature": job.temperature, "top_p": job.top_p, "top_k": 0} if job.temperature else {"do_sample": False}
        torch.manual_seed(job.seed)
        with quiet(), Stopwatch(self.target.device) as watch:
            begun = time.perf_counter()
            made = self.target.generate(
                ids, attention_mask=mask, max_new_tokens=job.max_new_tokens, pad_token_id=pad, streamer=clock, **options, **self.keywords
            )
        first = clock.at - begun if clock is not None and clock.at else None
        return Outcome([self._cut(row) for row in made[:, longest:].tolist()], watch.seconds, first)

    def _cut(self, ids: list[int]) -> list[int]:
        """Without the padding behind the first end-of-sequence token."""
        for place, token in enumerate(ids):
            if token in self.ends:
                return ids[: place + 1]
        return ids


class FirstToken:
    """A streamer that notes when the first new token came; the prompt comes before it."""

    def __init__(self) -> None:
        self.calls, self.at = 0, 0.0

    def put(self, value: Any) -> None:
        """Called with the prompt, then with every new token or block of them."""
        self.calls += 1
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Nothing to flush."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's remarks on arguments, which would bury the report's table."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def contenders(pair: Pair, settings: Settings) -> list[Generate]:
    """The ways of transformers that fit this pair; a batch has only the plain one, because the others refuse more than one prompt."""
    made = [Generate("plain", pair.fresh_target())]
    if settings.batch_size > 1:
        return made
    lookup = 10
    made.append(Generate(f"prompt lookup k={lookup}", pair.fresh_target(), prompt_lookup_num_tokens=lookup))
    if pair.drafter is None:
        return made
    if settings.temperature and not pair.same_vocabulary:
        # in 5.23 a second drafter with the same tokenizers fails in one process (its translator is cached by tokenizers), so there is one
        if "tli" not in pair.kept:
            pair.kept["tli"] = _assisted(pair, settings, None)
        return [*made, pair.kept["tli"]]
    return made + [_assisted(pair, settings, k) for k in (None, *settings.lookaheads)]


def _assisted(pair: Pair, settings: Settings, k: int | None) -> Generate:
    """k tokens in every step; None leaves transformers' own defaults (20 tokens, stop below a confidence of 0.4)."""
    drafter = pair.fresh_drafter()
    if k is not None:
        drafter.generation_config.num_assistant_tokens = k
        drafter.generation_config.num_assistant_tokens_schedule = "constant"
        drafter.generation_config.assistant_confidence_threshold = 0.0
    shown = "default" if k is None else f"k={k}"
    if pair.same_vocabulary:
        return Generate(f"assisted {shown}", pair.fresh_target(), drafter)
    way = "universal (TLI)" if settings.temperature else "universal (SLEM)"
    keys = {"tokenizer": pair.tokenizer, "assistant_tokenizer": pair.drafter_tokenizer}
    return Generate(f"{way} {shown}", pair.fresh_target(), drafter, **keys)
