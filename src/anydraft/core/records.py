"""The records of one decoding step. All are frozen; all tensors are batched with a leading B.

Letters: B requests, N draft nodes, K depth, V target vocabulary (logits width), T token capacity.
`Context` lives on the host, because every part needs its lengths; `Draft`, `Scores` and `Verdict` live on the
device of whoever made them, so that a step needs one transfer to the host: the one that `commit` makes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from anydraft.core.law import Law

DETERMINED, INDEPENDENT, DISTINCT = 0, 1, 2
"""Kinds of a draft node: a point (argmax, retrieved, re-encoded); drawn from its law; drawn from its law without the
tokens of all earlier siblings."""

KINDS = {"determined": DETERMINED, "independent": INDEPENDENT, "distinct": DISTINCT}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """What one user asked for. Compared by identity: two equal requests are still two requests."""

    prompt: Tensor  # i64[P] token ids, host
    max_new_tokens: int
    seed: int = 0
    temperature: float = 0.0  # 0 is the one-hot law of the largest logit
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_new_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_tokens: tuple[int, ...] = ()
    forced_tokens: tuple[int, ...] = ()  # the first generated tokens, in order
    draft_temperature: float | None = None  # None: the request's own temperature
    drafter_prompt: Tensor | None = None  # i64[P'] in the drafter's ids, if it was built elsewhere (its own chat template)
    eos: frozenset[int] = frozenset()  # every id that ends the text
    stop_strings: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    logits_processor: tuple[Any, ...] = ()
    stopping_criteria: tuple[Any, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Context:
    """The text so far of the open requests. Made by `commit` and by the three methods here, by nobody else.

    `ids` is an append-only buffer shared by successive contexts: entries before `length` never change, so a step copies
    nothing that is proportional to the prompt. `committed` is the part of a row that can never be revised; it is smaller
    than `length` only in provisional contexts (parallel schedules, re-tokenized text), and parts that cache by prefix compare from it.
    """

    ids: Tensor  # i64[B, T] host
    length: Tensor  # i64[B] host: ids in use
    committed: Tensor  # i64[B] host: ids that are final, <= length
    limit: Tensor  # i64[B] host: length at which the request ends
    step: Tensor  # i64[B] host: steps this request has taken
    slot: Tensor  # i64[B] host: index under which parts keep their state
    requests: tuple[Request, ...]

    @classmethod
    def start(cls, requests: tuple[Request, ...] | list[Request], slots: list[int] | None = None, max_length: int | None = None) -> Context:
        """A context that holds just the prompts. `max_length`: ids the model can hold, None for no bound."""
        lengths = [len(r.prompt) for r in requests]
        limits = [n + r.max_new_tokens for n, r in zip(lengths, requests)]
        if max_length is not None:
            limits = [min(n, max_length) for n in limits]
        ids = torch.zeros(len(requests), max([1, *limits]) + 1, dtype=torch.int64)
        for row, request in zip(ids, requests):
            row[: len(request.prompt)] = request.prompt
        length = torch.tensor(lengths, dtype=torch.int64)
        return cls(
            ids=ids,
            length=length,
            committed=length,
            limit=torch.tensor(limits, dtype=torch.int64),
            step=torch.zeros_like(length),
            slot=torch.tensor(slots if slots is not None else range(len(requests)), dtype=torch.int64),
            requests=tuple(requests),
        )

    @property
    def size(self) -> int:
        """B, the number of open requests."""
        return len(self.requests)

    def row(self, b: int) -> Tensor:
        """i64[length of row b]: the ids of one request, a view."""
        return self.ids[b, : int(self.length[b])]

    def keep_rows(self, rows: list[int]) -> Context:
        """The same context with only these rows, in this order."""
        if rows == list(range(self.size)):
            return self
        at = torch.tensor(rows, dtype=torch.int64)
        picked = {name: getattr(self, name)[at] for name in ("ids", "length", "committed", "limit", "step", "slot")}
        return Context(**picked, requests=tuple(self.requests[b] for b in rows))

    def join(self, other: Context) -> Context:
        """Both contexts' rows in one batch (requests that are admitted while others run)."""
        width = max(self.ids.shape[1], other.ids.shape[1])
        pad = [torch.nn.functional.pad(c.ids, (0, width - c.ids.shape[1])) for c in (self, other)]
        both = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in ("length", "committed", "limit", "step", "slot")}
        return Context(ids=torch.cat(pad), **both, requests=self.requests + other.requests)

    def extended(self, tokens: list[list[int]]) -> Context:
        """A provisional context with these tokens behind each row: `committed` stays, the buffer is a copy."""
        lengths = self.length.tolist()
        grown = [n + len(t) for n, t in zip(lengths, tokens)]
        width = max(self.ids.shape[1], max(grown) + 1)
        short = width - self.ids.shape[1]
        ids = torch.nn.functional.pad(self.ids, (0, short)) if short else self.ids.clone()
        numbers = ids.numpy()  # the same memory: a parallel schedule does this between two forwards, where every call of torch is slow
        for row, start, new in zip(numbers, lengths, tokens):
            row[start : start + len(new)] = new
        return dataclasses.replace(self, ids=ids, length=torch.tensor(grown, dtype=torch.int64))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Level:
    """What a control may look at after a level of the draft was kept: the drafter's view of its last tokens."""

    depth: int  # levels kept so far, 1 for the first
    token: Tensor  # i64[B] last token of each row's most likely path
    prob: Tensor  # f[B] probability of that token under the drafter's unprocessed logits
    logits: Tensor  # f[B, U] those logits, before temperature and truncation
    live: Tensor  # bool[B] rows that may have another: the same ones whatever rows stand beside
    hidden: Tensor | None = None  # f[B, D] what the logits were computed from, if the drafting model offers it


def always(context: Context, level: Level) -> Tensor:
    """The `go_on` of a control that has nothing to say."""
    return torch.ones_like(level.live)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Size:
    """How far to look ahead: `depth` levels, at most `nodes` nodes, and whether to go on after a kept level.

    Both are per row: a tree whose budget were the batch's would make a row's draft, and so its tokens, depend on its neighbours.
    """

    depth: Tensor  # i64[B] host
    nodes: Tensor  # i64[B] host
    go_on: Callable[[Context, Level], Tensor] = always  # -> bool[B]
    drafter: Tensor | None = None  # i64[B] host: which of several drafters each row asks; None where there is one

    def clipped(self, context: Context) -> Size:
        """Never deeper than the tokens that the request may still emit before the one that the target adds."""
        room = (context.limit - context.length - 1).clamp_min(0)
        depth = torch.minimum(self.depth, room)
        return dataclasses.replace(self, depth=depth, nodes=self.nodes.masked_fill(depth == 0, 0))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draft:
    """A token tree. Nodes are in topological order, siblings in draw order.

    A live node with token -1 is a draw that came out empty: never accepted, never scored, but its law counts.
    """

    tokens: Tensor  # i64[B, N]
    parent: Tensor  # i64[B, N] an earlier node, or -1 for the context
    live: Tensor  # bool[B, N] False marks padding
    kind: Tensor  # i64[B, N] one of KINDS
    index: Tensor  # i64[B, N] row of `law` each node was drawn from, -1 for determined nodes
    law: Law | None = None  # None when every node is determined
    levels: int = 0  # depth of the deepest node, an upper bound known to the host
    chain: bool = True  # every node's parent is the node before it
    proposer: tuple[str, ...] = ("",)  # who may have proposed a node ...
    source: Tensor | None = None  # i64[B, N] ... and which of them did; None: the first
    forwards: int = 0  # drafter forwards spent

    @classmethod
    def empty(cls, size: int, device: torch.device | str = "cpu") -> Draft:
        """No proposal at all: the step is one of plain decoding."""
        none = torch.zeros(size, 0, dtype=torch.int64, device=device)
        return cls(tokens=none, parent=none, live=none.bool(), kind=none, index=none)

    @property
    def nodes(self) -> int:
        """N, padding included."""
        return self.tokens.shape[1]

    def on(self, device: torch.device) -> Draft:
        """The same draft on a device: a rule judges where the laws are that it compares with. A law that is made on demand answers where it is asked."""
        if self.tokens.device == device:
            return self
        own = {name: getattr(self, name).to(device) for name in ("tokens", "parent", "live", "kind", "index")}
        return dataclasses.replace(self, law=_on(self.law, device), **own)


def _on(thing: Any, device: torch.device) -> Any:
    """A law with its tensors on a device."""
    if isinstance(thing, Tensor):
        return thing.to(device)
    if isinstance(thing, (list, tuple)):
        return [_on(one, device) for one in thing]
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        return thing
    return dataclasses.replace(thing, **{f.name: _on(getattr(thing, f.name), device) for f in dataclasses.fields(thing)})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """The target's view of a draft: row 0 is the law after the context, row i + 1 the law after node i."""

    law: Law
    logits: Tensor  # f[B, 1 + N, V] before any processor
    features: dict[str, Tensor] = field(default_factory=dict)  # what some part declared in `needs`


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Verdict:
    """What a rule decided."""

    path: Tensor  # i64[B, K] accepted nodes, parents first, -1 behind them
    count: Tensor  # i64[B] how many of `path` are accepted
    token: Tensor  # i64[B] the token the target adds, -1 where there is none


@dataclass(slots=True)
class Seconds:
    """Where the time of a step went."""

    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return self.prefill + self.draft + self.verify + self.other


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """One finished step: everything `keep` may learn from, rejected nodes included."""

    before: Context
    after: Context  # the same rows; those with a `finish` have left before the next step
    draft: Draft
    scores: Scores
    verdict: Verdict
    path: list[list[int]]  # accepted nodes per row, on the host, before stopping cut anything
    emitted: Tensor  # i64[B] host: tokens added to each row, after stopping
    finish: tuple[str | None, ...]  # why a row ended, None while it is open
    seconds: Seconds
    forwards: dict[str, int]  # "target", "draft": forwards of each model
