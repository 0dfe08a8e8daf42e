"""From logits to laws: the options of each request, applied with exactly the prefix that each draft node has.

Source: transformers' own processor classes do the arithmetic, in the order of `GenerationMixin._get_logits_processor`; presence
and frequency penalties follow the OpenAI API's definition (on generated tokens), which transformers does not have.

Options that look at the row alone (bias, bans, temperature, truncation) run on many rows at once. Those that look at the prefix
(penalties, minimum length, forced tokens, the user's objects) run on one node at a time, in the order in which the rule visits the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from anydraft.core.errors import BadOption
from anydraft.core.law import Dense, Law, Point, _chosen, _picked, quantile
from anydraft.core.records import Context, Draft, Request

STATEFUL = tuple(
    getattr(hf, name)
    for name in (
        "WhisperTimeStampLogitsProcessor",
        "SynthIDTextWatermarkLogitsProcessor",
        "UnbatchedClassifierFreeGuidanceLogitsProcessor",
        "PrefixConstrainedLogitsProcessor",
    )
    if hasattr(hf, name)
)
"""Processors of transformers that keep state between calls, or call a user's function that may."""


class CountPenalty(hf.LogitsProcessor):
    """Presence and frequency penalties as the OpenAI API defines them: on generated tokens, by count."""

    def __init__(self, presence: float, frequency: float, prompt_length: int):
        self.presence, self.frequency, self.prompt_length = presence, frequency, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids i64[1, S], scores f[1, V]."""
        counts = torch.zeros_like(scores)
        new = input_ids[:, self.prompt_length :].to(scores.device)
        counts.scatter_add_(1, new, torch.ones_like(new, dtype=scores.dtype))
        return scores - self.frequency * counts - self.presence * (counts > 0)


class ForcedTokens(hf.LogitsProcessor):
    """The first generated tokens are given."""

    def __init__(self, tokens: tuple[int, ...], prompt_length: int):
        self.tokens, self.prompt_length = tokens, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids i64[1, S], scores f[1, V]."""
        done = input_ids.shape[1] - self.prompt_length
        if done >= len(self.tokens):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[done]] = 0.0
        return forced


class NoEndYet(hf.MinNewTokensLengthLogitsProcessor):
    """The library's, which compares ids where it was made, and is made here before anybody knows where the scores will be."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids i64[1, S], scores f[1, V]."""
        self.eos_token_id = self.eos_token_id.to(scores.device)
        return super().__call__(input_ids, scores)


class Behind:
    """A processor or a criterion that is shown a row as it stands in a left-padded batch: behind its padding i64[P]."""

    def __init__(self, inner: Any, padding: Tensor):
        self.inner, self.padding = inner, padding

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        """input_ids i64[1, S]; what the object itself returns for [1, P + S]."""
        return self.inner(torch.cat([self.padding[None].to(input_ids.device), input_ids], 1), scores)


Processors = Any
"""A transformers `LogitsProcessorList`; its annotations ask for `LongTensor`, which no function of torch is annotated to return."""


def warpers(temperature: float, top_k: int, top_p: float, min_p: float) -> Processors:
    """The processors that shape a sampled law, in transformers' order."""
    chain = LogitsProcessorList()
    if temperature != 1.0:
        chain.append(hf.TemperatureLogitsWarper(float(temperature)))
    if top_k:
        chain.append(hf.TopKLogitsWarper(top_k))
    if top_p < 1.0:
        chain.append(hf.TopPLogitsWarper(float(top_p)))
    if min_p > 0.0:
        chain.append(hf.MinPLogitsWarper(float(min_p)))
    return chain


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """One request's processors, split by what they look at."""

    by_row: Processors  # look at one row of logits alone
    by_prefix: Processors  # need the prefix; run after `by_row`'s bias, before the warpers
    warp: Processors  # empty at temperature 0
    greedy: bool
    key: tuple[Any, ...] | None  # equal keys, equal laws from equal logits; None if the prefix matters
    users: tuple[Any, ...]

    @classmethod
    def of(cls, request: Request) -> Recipe:
        """Builds one list per request: library objects are bound to a batch of one and never shared."""
        r, by_row, by_prefix = request, LogitsProcessorList(), LogitsProcessorList()
        if r.logit_bias:
            by_row.append(hf.SequenceBiasLogitsProcessor([[[int(t)], float(v)] for t, v in r.logit_bias.items()]))
        if r.repetition_penalty != 1.0:
            by_prefix.append(hf.RepetitionPenaltyLogitsProcessor(float(r.repetition_penalty)))
        if r.presence_penalty or r.frequency_penalty:
            by_prefix.append(CountPenalty(r.presence_penalty, r.frequency_penalty, len(r.prompt)))
        if r.min_new_tokens and r.eos:
            by_prefix.append(NoEndYet(len(r.prompt), r.min_new_tokens, sorted(r.eos)))
        if r.forced_tokens:
            by_prefix.append(ForcedTokens(r.forced_tokens, len(r.prompt)))
        if r.banned_tokens:
            by_row.append(hf.SuppressTokensLogitsProcessor(list(r.banned_tokens)))
        by_prefix.extend(r.logits_processor)
        greedy = r.temperature == 0
        warp = LogitsProcessorList() if greedy else warpers(r.temperature, r.top_k, r.top_p, r.min_p)
        key = None if by_prefix else (tuple(r.logit_bias.items()), r.banned_tokens, r.temperature, r.top_k, r.top_p, r.min_p)
        return cls(by_row, by_prefix, warp, greedy, key, r.logits_processor)

    def probs(self, logits: Tensor, prefix: Tensor | None = None) -> Tensor:
        """f[M, V] probabilities from f[M, V] logits; prefix i64[1, S] if anything looks at it (then M = 1)."""
        if self.by_row:
            logits = self.by_row(_NO_IDS.to(logits.device).expand(len(logits), 0), logits)
        if self.by_prefix:
            logits = self.by_prefix(prefix, logits)
        if self.greedy:
            best, at = logits.max(-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(1, at, (best != -torch.inf).to(logits.dtype))  # nothing is left: no mass
        return self.warp(_NO_IDS, logits).softmax(-1)


_NO_IDS = torch.zeros(1, 0, dtype=torch.int64)


def at_least_float32(logits: Tensor) -> Tensor:
    """Law arithmetic is at least float32, float64 where the model gives float64, and never cast down."""
    return logits if logits.dtype == torch.float64 else logits.float()


class Processed:
    """The target's laws after every processor, computed for the rows that a rule asks for."""

    def __init__(self, logits: Tensor, recipes: Sequence[Recipe], context: Context, draft: Draft):
        self.logits, self.recipes, self.context, self.draft = logits, recipes, context, draft
        self.width = logits.shape[-1]
        self._done: dict[tuple[int, int], Tensor] = {}
        self._uniform = recipes[0].key is not None and all(r.key == recipes[0].key for r in recipes)

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`."""
        logits = at_least_float32(_chosen(self.logits, index))
        if self._uniform:
            probs = self.recipes[0].probs(logits)
            return _possible(probs, logits) if self.recipes[0].by_row else probs
        wanted = [index] * len(logits) if isinstance(index, int) else index.tolist()
        return torch.cat([self._row(b, i, logits[b : b + 1]) for b, i in enumerate(wanted)])

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`."""
        return _picked(self.rows(index), token)

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        return quantile(self.rows(index), uniform, empty=empty)

    def _row(self, b: int, i: int, logits: Tensor) -> Tensor:
        recipe = self.recipes[b]
        if recipe.key is not None:
            return _possible(recipe.probs(logits), logits) if recipe.by_row else recipe.probs(logits)
        if (b, i) not in self._done:  # the user's objects see each node once
            prefix = self._prefix(b, i)
            # nothing follows an empty draw: such a row only stands in a batch with others that are asked for
            row = recipe.probs(logits.clone(), prefix) if prefix is not None else logits.softmax(-1)
            self._done[b, i] = _possible(row, logits)
        return self._done[b, i]

    def _prefix(self, b: int, i: int) -> Tensor | None:
        """i64[1, S + depth]: the ids that lead to row i, the node before it included; None behind an empty draw."""
        tail: list[int] = []
        node = i - 1
        while node >= 0:
            tail.append(int(self.draft.tokens[b, node]))
            if tail[-1] < 0:
                return None
            node = int(self.draft.parent[b, node])
        ids = torch.cat([self.context.row(b), torch.tensor(tail[::-1], dtype=torch.int64)])
        return ids[None].to(self.logits.device)


def _possible(probs: Tensor, logits: Tensor) -> Tensor:
    """The same rows. Raises BadOption if processors took all mass from one; logits that had none are reported where they are committed."""
    if probs.device.type != "cpu" or bool((probs.sum(-1) > 0).all()):  # softmax of nothing but -inf is NaN
        return probs
    if bool(logits.amax(-1).isfinite().all()):
        raise BadOption("the logits processors left no token that may follow", next_step="Loosen the bans or the custom processor")
    return probs


class Laws:
    """Makes the target's laws; owns one list of processors per open request."""

    def __init__(self) -> None:
        self._recipes: dict[int, tuple[Request, Recipe]] = {}
        self._probes: dict[int, list[str]] = {}

    def recipe(self, request: Request) -> Recipe:
        """The request's processors, built once."""
        held = self._recipes.get(id(request))
        if held is None:
            held = self._recipes[id(request)] = (request, Recipe.of(request))
        return held[1]

    def forget(self, context: Context) -> None:
        """Drops what is kept for requests that are not in this context."""
        open_ = {id(r) for r in context.requests}
        self._recipes = {key: value for key, value in self._recipes.items() if key in open_}
        self._probes = {key: value for key, value in self._probes.items() if key in open_}

    def of(self, logits: Tensor, context: Context, draft: Draft) -> Law:
        """The law of every row of logits f[B, 1 + N, V]."""
        recipes = [self.recipe(request) for request in context.requests]
        if len(self._recipes) > 2 * context.size + 8:
            self.forget(context)
        if _one_hot(recipes):
            return Point(logits.argmax(-1), logits.shape[-1], at_least_float32(logits[:0]).dtype)
        return Processed(logits, recipes, context, draft)

    def certain(self, context: Context) -> bool:
        """Whether every law of these requests is one-hot and known without its processors."""
        return _one_hot([self.recipe(request) for request in context.requests])

    def plain(self, context: Context) -> Tensor | None:
        """bool[B]: rows whose processors keep state, or have not yet shown that they keep none, and must not speculate; None: no row."""
        if not any(r.logits_processor for r in context.requests):
            return None
        return torch.tensor([self._keeps_state(r) for r in context.requests])

    def _keeps_state(self, request: Request) -> bool:
        """A user's object is watched over its first calls: what it prepares once is ready by the second, so a later change is state."""
        users = [p.inner if isinstance(p, Behind) else p for p in request.logits_processor]
        if any(isinstance(p, STATEFUL) for p in users):
            return True
        foreign = [p for p in users if not type(p).__module__.startswith("transformers.")]
        if not foreign:
            return False
        seen = self._probes.setdefault(id(request), [])
        self.recipe(request)  # keeps the request, and with it the id, alive
        if len(seen) < 4:
            seen.append(repr([_fingerprint(p) for p in foreign]))
            return True
        return seen[1] != seen[3]


def _one_hot(recipes: Sequence[Recipe]) -> bool:
    return all(r.greedy and r.key is not None and not r.by_row for r in recipes)


def _fingerprint(thing: Any, depth: int = 0) -> Any:
    """A value that changes when an object's attributes do."""
    if isinstance(thing, Tensor):
        return (id(thing), thing._version, tuple(thing.shape))
    if isinstance(thing, (int, float, str, bytes, bool, type(None))):
        return thing
    if depth > 3:
        return id(thing)
    if isinstance(thing, dict):
        return [(repr(k), _fingerprint(v, depth + 1)) for k, v in thing.items()]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [_fingerprint(v, depth + 1) for v in thing]
    if isinstance(thing, Callable) and hasattr(thing, "__closure__"):
        return [_fingerprint(c.cell_contents, depth + 1) for c in thing.__closure__ or ()]
    return _fingerprint(vars(thing), depth + 1) if hasattr(thing, "__dict__") else id(thing)


def drafting_law(logits: Tensor, requests: Sequence[Request], default: float | None = None) -> Law:
    """The drafter's law f[B, U]: the request's `draft_temperature`, else `default`, else its temperature; and its truncation."""
    settings = [(_first(r.draft_temperature, default, r.temperature), r.top_k, r.top_p, r.min_p) for r in requests]
    logits = at_least_float32(logits)
    if all(s[0] == 0 for s in settings):
        return Point(logits.argmax(-1)[:, None], logits.shape[-1], logits.dtype)
    probs = torch.empty_like(logits)
    for setting in dict.fromkeys(settings):
        rows = [b for b, s in enumerate(settings) if s == setting]
        part = logits if len(rows) == len(settings) else logits[rows]
        if setting[0] == 0:
            law = torch.zeros_like(part).scatter_(1, part.argmax(-1, keepdim=True), 1.0)
        else:
            law = warpers(*setting)(_NO_IDS, part).softmax(-1)
        if len(rows) == len(settings):
            return Dense(law[:, None])
        probs[rows] = law
    return Dense(probs[:, None])


def _first(*values: float | None) -> float:
    """The first that is given."""
    return next(value for value in values if value is not None)
