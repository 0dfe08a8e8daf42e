"""The roles: protocols of two or three methods each. A part is whatever has the methods; nothing is inherited.

Parts that keep state index it by `context.slot`. A part may have `open(context)` (rows that are new: prefill, build an
index; counted as prefill time) and `keep(step)` (learn from a finished step); neither is required. `keep` teaches, it does
not locate: `propose`, `score` and `next` accept any context, longer or shorter than the last, and find what they hold by common prefix.
A drafter is opened when its first draft is wanted, which may be late or never; the rows that are new to it then stand at step 0.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from anydraft.core.law import Law
from anydraft.core.records import Context, Draft, Scores, Size, Verdict


class Noise(Protocol):
    """The only source of randomness. It decides; what is not asked is not decided.

    A decision is keyed by (seed, step, position, purpose, number) and taken once. With `path=True` the key is (seed, position)
    alone: only a rule that keeps the path may ask so.
    """

    def bernoulli(self, prob: Tensor, asked: Tensor, purpose: str, number: int) -> Tensor:
        """bool[B]: True with probability min(1, prob f[B]) where asked bool[B], else False."""
        ...

    def categorical(
        self, law: Law, index: Tensor | int, asked: Tensor, purpose: str, number: int, *, path: bool = False, empty: bool = False
    ) -> Tensor:
        """i64[B]: a token drawn from row `index` of the law where asked, else -1. With `empty`, mass that the row lacks is -1 too."""
        ...


class NoiseSource(Protocol):
    """Gives the noise of one step of every row of a context."""

    def at(self, context: Context) -> Noise:
        """Noise bound to the seeds, steps and positions of these rows."""
        ...


class Drafter(Protocol):
    """Proposes. Class attributes: `kinds`, the kinds of node it makes; `chain`, whether it only makes chains."""

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """A draft for every row, no deeper than `size.depth`, of at most `size.nodes` nodes."""
        ...


class Target(Protocol):
    """Scores. `vocab_size` is V, `max_length` the ids it can hold, None for no bound."""

    vocab_size: int
    max_length: int | None

    def score(self, context: Context, draft: Draft) -> Scores:
        """The law after the context and after every node."""
        ...


class Rule(Protocol):
    """Decides. Class attributes `kinds` and `chain` name what it can judge."""

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """The accepted path and the token that the target adds."""
        ...


class Control(Protocol):
    """Says how far to look ahead."""

    def size(self, context: Context) -> Size:
        """Depth per row, node budget, and the stopping question."""
        ...


@runtime_checkable
class Model(Protocol):
    """A drafting model: next-token logits with a cache, in its own vocabulary of width U."""

    vocab_size: int
    max_length: int | None

    def next(self, context: Context) -> Tensor:
        """f[B, U]: logits after the context, whose rows then are the root of a tree."""
        ...

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """f[B, M, U]: logits after M new nodes: tokens i64[B, M]; parent i64[B, M] on the host counts the nodes grown so far, -1 is the root.

        A new node may hang below an earlier one of the same call: where all tokens are known, a whole tree costs one forward.
        """
        ...


@runtime_checkable
class TextModel(Protocol):
    """A drafter that yields text only; used through its words, by SLEM."""

    def continue_text(self, text: str, max_tokens: int) -> str:
        """At most about `max_tokens` tokens of continuation, possibly empty."""
        ...
