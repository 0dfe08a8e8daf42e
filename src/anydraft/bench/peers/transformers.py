"""transformers' own generation: plain, assisted, universal (SLEM), sampled other-vocabulary (TLI), prompt lookup.

Every contender has a target and a drafter of its own, freshly loaded: sampling with a drafter of another vocabulary rewrites
that drafter for good (seen in 5.23), and lookahead settings are written into its generation config.

Sampling with a drafter of another vocabulary does not keep the target's law there (5.23: the pruned head has the order of `get_vocab()`, its logits are read
in the order of ids; docs/log.md, 2026-11-26). It takes part as it is, named so, and repaired by tokenizers that list their vocabulary in the order of ids.
"""

from __future__ import annotations

import contextlib
import copy
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
    """The ways of transformers that fit this pair; a batch has only the plain one, because the others refuse more than one
    prompt, and so has a pair whose acceptance is forced, because their drafters cannot be steered."""
    made = [Generate("plain", pair.fresh_target())]
    if settings.batch_size > 1 or settings.forced_acceptance is not None:
        return made
    lookup = 10
    made.append(Generate(f"prompt lookup k={lookup}", pair.fresh_target(), prompt_lookup_num_tokens=lookup))
    if pair.drafter is None:
        return made
    lookaheads = (None, *settings.lookaheads)
    if settings.temperature and not pair.same_vocabulary:
        # a second drafter with the same tokenizers fails in one process (its translator is cached by tokenizers), so there is one as it is
        if "tli" not in pair.kept:
            pair.kept["tli"] = _assisted(pair, settings, None, "universal (TLI), not lossless,")
        ordered = [_assisted(pair, settings, k, "universal (TLI) repaired", ordered=True) for k in lookaheads]
        return [*made, pair.kept["tli"], *ordered]
    way = "assisted" if pair.same_vocabulary else "universal (SLEM)"
    return made + [_assisted(pair, settings, k, way) for k in lookaheads]


def _assisted(pair: Pair, settings: Settings, k: int | None, way: str, *, ordered: bool = False) -> Generate:
    """k tokens in every step; None leaves transformers' own defaults (20 tokens, stop below a confidence of 0.4)."""
    drafter = pair.fresh_drafter()
    if k is not None:
        drafter.generation_config.num_assistant_tokens = k
        drafter.generation_config.num_assistant_tokens_schedule = "constant"
        drafter.generation_config.assistant_confidence_threshold = 0.0
    keys = {}
    if not pair.same_vocabulary:
        keys = {"tokenizer": pair.tokenizer, "assistant_tokenizer": pair.drafter_tokenizer}
        keys = {name: _in_order_of_ids(tokenizer) for name, tokenizer in keys.items()} if ordered else keys
    return Generate(f"{way} {'default' if k is None else f'k={k}'}", pair.fresh_target(), drafter, **keys)


def _in_order_of_ids(tokenizer: Any) -> Any:
    """A copy whose vocabulary comes in the order of its ids."""
    made = copy.deepcopy(tokenizer)
    get = made.get_vocab
    made.get_vocab = lambda: dict(sorted(get().items(), key=lambda item: item[1]))
    return made
