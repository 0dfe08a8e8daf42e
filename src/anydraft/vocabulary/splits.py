"""How a drafter's tokens spell the target's: which texts can still become a target token, and how many ways lead there.

Source: Timor et al. 2025, arXiv:2502.05202, Lemma 3.1 (the number of splits); counted here by N[j] = sum of N[i] over drafter tokens t[i:j].

Texts are bytes. Of several drafter ids with the same bytes only the canonical one spells: every further one would multiply the ways, and
an event that leaves it out is as exact.
"""

from __future__ import annotations

from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection

MANY = 10**15
"""Counts end here: a long token of one repeated letter has more splits than a float can say."""

_HELD: WeakKeyDictionary[Intersection, dict[int, Splits]] = WeakKeyDictionary()


class Splits:
    """The target's tokens that a drafter can spell in few enough ways, as a trie.

    Args:
        target, drafter: the two vocabularies.
        max_rows: most rows of the drafter's law that one token may take; a token that takes more is left out.

    `rows` of a token: the ways to spell each of its prefixes, itself included, added up; one row of the drafter's law for each.

    >>> target = ByteVocabulary.from_table([b"a", b"b", b"ba", b"aa"])
    >>> splits = Splits(target, ByteVocabulary.from_table([b"a", b"b", b"ab"]), max_rows=9)
    >>> splits.rows[b"ba"], sorted(splits.tokens), splits.pieces(b"ba")
    (3, [b'a', b'aa', b'b', b'ba'], [[(1, 1)], [(0, 2)]])
    """

    def __init__(self, target: ByteVocabulary, drafter: ByteVocabulary, max_rows: int):
        self.spelling = {text: id for text, id in drafter.by_bytes.items() if text}
        self.longest_piece = max(map(len, self.spelling), default=0)
        self.rows = self._counted(target)
        self.tokens = {text: target.by_bytes[text] for text, rows in self.rows.items() if rows <= max_rows}
        self.total = len(target.by_bytes)
        self.texts = {id: text for text, id in self.tokens.items()}
        self.longest = max(map(len, self.tokens), default=0)
        self.children: dict[bytes, list[bytes]] = {}  # of every text that some token extends
        self._prefixes = {b""}
        for text in self.tokens:
            for end in range(1, len(text) + 1):
                if (prefix := text[:end]) not in self._prefixes:
                    self._prefixes.add(prefix)
                    self.children.setdefault(text[: end - 1], []).append(prefix)
        self._pieces: dict[bytes, list[list[tuple[int, int]]]] = {}
        self._continuing: dict[bytes, np.ndarray] = {}

    @classmethod
    def of(cls, both: Intersection, max_rows: int) -> Splits:
        """The splits of a pair, kept as long as the pair is."""
        held = _HELD.setdefault(both, {})
        if max_rows not in held:
            held[max_rows] = cls(both.target, both.drafter, max_rows)
        return held[max_rows]

    @property
    def share(self) -> float:
        """Share of the target's text tokens that are in the trie."""
        return len(self.tokens) / max(1, self.total)

    @cached_property
    def in_order(self) -> list[bytes]:
        """The tokens, those with a common prefix next to each other."""
        return sorted(self.tokens)

    def is_prefix(self, text: bytes) -> bool:
        """Whether some token begins with this text."""
        return text in self._prefixes

    def ends(self, text: bytes) -> bool:
        """Whether no token extends this text."""
        return text not in self.children

    def pieces(self, text: bytes) -> list[list[tuple[int, int]]]:
        """For each place in a token, the drafter ids that continue its text there, with the places where they end; dead ends left out."""
        held = self._pieces.get(text)
        if held is None:
            held = [[] for _ in text]
            whole = {len(text)}  # places from which the end can be reached
            for at in range(len(text) - 1, -1, -1):
                for end in range(at + 1, min(len(text), at + self.longest_piece) + 1):
                    if end in whole and (id := self.spelling.get(text[at:end])) is not None:
                        held[at].append((id, end))
                        whole.add(at)
            self._pieces[text] = held
        return held

    def continuing(self, text: bytes) -> np.ndarray:
        """i64[W]: the drafter ids behind this text that keep it a prefix of some token."""
        held = self._continuing.get(text)
        if held is None:
            found, todo = [], [text]
            while todo:
                for longer in self.children.get(todo.pop(), ()):
                    piece = longer[len(text) :]
                    if (id := self.spelling.get(piece)) is not None:
                        found.append(id)
                    if len(piece) < self.longest_piece:
                        todo.append(longer)
            held = self._continuing[text] = np.array(sorted(found), dtype=np.int64)
        return held

    def _counted(self, target: ByteVocabulary) -> dict[bytes, int]:
        """Rows of every target token that can be spelled at all. Counts are shared between tokens with a common prefix."""
        ways, rows = {b"": 1}, {b"": 1}
        for text in target.by_bytes:
            for end in range(1, len(text) + 1):
                prefix = text[:end]
                if prefix not in ways:
                    starts = range(max(0, end - self.longest_piece), end)
                    ways[prefix] = min(MANY, sum(ways[text[:at]] for at in starts if text[at:end] in self.spelling))
                    rows[prefix] = rows[text[: end - 1]] + ways[prefix]
        return {text: rows[text] for text in target.by_bytes if ways[text]}
