"""The bytes of every token: what makes two vocabularies comparable.

Vocabularies are compared on bytes and never on piece strings: `Ċ`, `<0x0A>` and a literal newline are one byte, and `▁▁▁`
is `ĠĠĠ`. The table is found from the loaded tokenizer and checked against its own encoder and decoder before use.

What the bytes of a piece mean, by family:
    byte-level BPE, tiktoken     exactly the bytes of the text
    sentencepiece, Unigram       the same; a space that the tokenizer puts before a whole text is counted, see `prefix_space`
    WordPiece                    a word's first piece carries the space before it (` run`), `##ning` does not. Line breaks and
                                 runs of spaces are gone before pieces exist, so texts do not come back: `faithful` is False
Special tokens have a role instead of bytes. Ids that no text uses (padding up to the model's width, gaps) have neither.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from anydraft.core.errors import WrongVocabulary
from anydraft.vocabulary.checking import SelfCheck, choose_spelling
from anydraft.vocabulary.encoding import Encoder, anchored, longest_match
from anydraft.vocabulary.pieces import BYTE_PIECE
from anydraft.vocabulary.reading import Reading, read
from anydraft.vocabulary.utf8 import EVERY_BYTE, complete_length, runs


class LossyTokenizerWarning(UserWarning):
    """A tokenizer that changes the text it is given. Drafts through it cost acceptance, never correctness."""


@dataclass(frozen=True)
class Encoded:
    """A piece of text as ids. `ends[i]` is where token i ends in the text, in bytes; `lost` counts the ids before the first
    character that the vocabulary cannot express, None where it expresses all."""

    ids: list[int]
    ends: list[int]
    lost: int | None = None


@dataclass(frozen=True, eq=False)
class ByteVocabulary:
    """The bytes and roles of the ids [0, width) of one tokenizer, and an encoder of its own.

    `width` is the logits width of the model, which may exceed the tokenizer (padded ids) or fall short of it (added tokens that
    the model was never resized for). Build it with `from_tokenizer`, or `from_table` for toys.
    """

    width: int
    table: tuple[bytes | None, ...]  # [width] bytes of text tokens, None for special, padded and unused ids
    pieces: tuple[str | None, ...]  # [width] the tokenizer's own strings
    roles: Mapping[int, tuple[str, ...]]
    prefix_space: Literal["never", "always", "unless_present"]  # does a whole text get a space in front
    strips_prefix: bool  # does decoding a whole text take that space away again
    self_check: SelfCheck
    fragment: Encoder
    whole: Encoder
    beyond: Mapping[int, bytes]  # bytes of text ids >= width, which the encoder may produce and the model cannot take
    by_bytes: Mapping[bytes, int]  # canonical id of every byte string that is a token

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, width: int | None = None, *, strict: bool = True) -> ByteVocabulary:
        """Read a loaded tokenizer.

        Args:
            tokenizer: a transformers tokenizer, a `tokenizers.Tokenizer`, or an object with `mergeable_ranks`. Not changed.
            width: logits width of the model; None for the tokenizer's own largest id + 1.
            strict: raise when the self-check fails; otherwise only warn.

        Raises:
            BadModel: no vocabulary can be read from this object.
            WrongVocabulary: no reading of its pieces agrees with its own encoder and decoder.

        Warns:
            LossyTokenizerWarning: the tokenizer changes text (normalizers, lost whitespace).
        """
        reading = read(tokenizer)
        spelled, check = choose_spelling(reading)
        if not check.passed:
            _refuse(tokenizer, check, strict)
        elif not check.faithful:
            warnings.warn(f"{type(tokenizer).__name__} changes the text it encodes ({check})", LossyTokenizerWarning, stacklevel=2)
        width = width if width is not None else max(reading.pieces, default=-1) + 1
        return cls._made(reading, spelled, check, width)

    @classmethod
    def from_table(
        cls, table: Sequence[bytes | None], roles: Mapping[int, str] | None = None, encode: Callable[[str], list[int]] | None = None
    ) -> ByteVocabulary:
        """A toy vocabulary: bytes per id, None for special and unused ones.

        Args:
            table: [width] bytes of each id; several ids may carry the same bytes.
            roles: role of each special id.
            encode: text to ids; None for the longest match, lowest id first.

        >>> ByteVocabulary.from_table([b"a", b"b", b"ab", None], {3: "eos"}).encode(b"abb").ids
        [2, 1]
        """
        lowest = {data: id for id, data in reversed(list(enumerate(table))) if data}
        encoder: Encoder = longest_match(lowest) if encode is None else lambda text: (encode(text), None)
        spelled = {id: data for id, data in enumerate(table) if data}
        named = {id: (role,) for id, role in (roles or {}).items()}
        pieces = {id: data.decode("latin-1") for id, data in spelled.items()} | {id: f"<{names[0]}>" for id, names in named.items()}
        reading = Reading(pieces, named, frozenset(), encoder, encoder, encoder, None, [])
        return cls._made(reading, spelled, SelfCheck("a table", 1, 1, 0, ()), len(table))

    @classmethod
    def _made(cls, reading: Reading, spelled: dict[int, bytes], check: SelfCheck, width: int) -> ByteVocabulary:
        reading = replace(reading, fragment=anchored(reading.fragment, spelled))
        table = tuple(spelled.get(id) for id in range(width))
        space, strips = _prefix_behaviour(reading, spelled)
        return cls(
            width=width,
            table=table,
            pieces=tuple(_shown(reading.pieces.get(id)) for id in range(width)),
            roles={id: roles for id, roles in reading.roles.items() if id < width},
            prefix_space=space,
            strips_prefix=strips,
            self_check=check,
            fragment=reading.fragment,
            whole=reading.whole,
            beyond={id: data for id, data in spelled.items() if id >= width},
            by_bytes=_canonical(table, reading),
        )

    # What a token is

    def bytes_of(self, id: int) -> bytes | None:
        """The bytes of a text token; None for special, padded and unused ids.

        Raises:
            WrongVocabulary: the id is outside [0, width).
        """
        return self.table[self.check([id])[0]]

    def role_of(self, id: int) -> str | None:
        """Most telling role of a special id (`eos` before `bos`, "special" for others), "unused" for an id that nothing
        stands for, None for text."""
        if self.table[self.check([id])[0]] is not None:
            return None
        return self.roles[id][0] if id in self.roles else "unused"

    def has_role(self, id: int, role: str) -> bool:
        """Whether an id plays a role, also if that is not its first one."""
        return role in self.roles.get(id, ())

    def ids_of(self, role: str) -> tuple[int, ...]:
        """The ids that play a role, lowest first."""
        return tuple(id for id, roles in self.roles.items() if role in roles)

    def canonical_id(self, data: bytes) -> int | None:
        """The id for these bytes that the tokenizer's own encoder produces; None if they are no token."""
        return self.by_bytes.get(data)

    def check(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids, if all are inside [0, width).

        Raises:
            WrongVocabulary: one is not: ids of another tokenizer, most likely.
        """
        for id in ids:
            if not 0 <= id < self.width:
                raise WrongVocabulary(
                    "a token id is outside its vocabulary",
                    got=id,
                    expected=f"0 <= id < {self.width}",
                    next_step="Check which tokenizer the ids come from; target and drafter ids are never interchangeable",
                )
        return ids

    @property
    def faithful(self) -> bool:
        """Whether every probed text comes back byte for byte; False with normalizers that fold or strip."""
        return self.self_check.faithful

    @cached_property
    def is_byte_complete(self) -> bool:
        """Whether every text can be spelled: each byte that UTF-8 uses is a token."""
        return all(bytes([byte]) in self.by_bytes for byte in EVERY_BYTE)

    @property
    def tag(self) -> str:
        """Digest of the contents: bytes of text tokens, strings of special ones; padding does not count."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for id in range(self.width):
            if (key := self.key(id)) is not None:
                digest.update(repr((id, key)).encode())
        return digest.hexdigest()

    def key(self, id: int) -> bytes | tuple[str, str] | None:
        """What makes a token the same token in another vocabulary: its bytes, or ("special", its string); None if unused."""
        if (data := self.table[id]) is not None:
            return data
        return ("special", self.pieces[id] or "") if id in self.roles else None

    # Text and ids

    def text_of(self, ids: Iterable[int], start: bool = False) -> bytes:
        """The bytes of a sequence; special tokens have none.

        Args:
            ids: in [0, width).
            start: the sequence begins a text, so a space that the tokenizer itself put there is dropped.
        """
        data = b"".join(self.table[id] or b"" for id in ids)
        return data[1:] if start and self.strips_prefix and data[:1] == b" " else data

    def unfinished(self, ids: Sequence[int]) -> bool:
        """Whether a sequence ends inside a UTF-8 character. Reads at most the last few ids.

        >>> ByteVocabulary.from_table([b"a", b"\\xe4\\xbd", b"\\xa0"]).unfinished([0, 1])
        True
        """
        tail = b""
        for id in reversed(ids):
            tail = (self.table[id] or b"") + tail
            if len(tail) >= 4 or self.table[id] is None:
                break
        return complete_length(tail) < len(tail)

    def encode(self, data: bytes) -> Encoded:
        """Ids of text that stands in the middle: no special token, no leading space, `</s>` in it is plain text.

        Bytes that are no UTF-8 are spelled by single tokens where there are some.

        Args:
            data: the text; may begin or end inside a character.
        """
        ids: list[int] = []
        ends: list[int] = []
        lost, at = None, 0
        for run, valid in runs(data, self._misread):
            part = self._encode_text(run) if valid else self._spelled(run)
            if lost is None and part.lost is not None:
                lost = len(ids) + part.lost
            ids += part.ids
            ends += [at + end for end in part.ends]
            at += len(run)
        return Encoded(ids, ends, lost)

    def encode_whole(self, text: str) -> list[int]:
        """Ids of a text from its start: with the leading space and the special tokens that the tokenizer puts before a text,
        without those that it puts behind one."""
        ids = [id for id in self.whole(text)[0] if id < self.width and self.role_of(id) != "unk"]
        texts = [place for place, id in enumerate(ids) if self.table[id] is not None]
        if texts:
            return ids[: texts[-1] + 1]
        return [id for id in ids if self.has_role(id, "bos") or self.has_role(id, "cls")][:1]

    def spell(self, data: bytes) -> list[int] | None:
        """Ids whose bytes are exactly these, longest match first; None if some byte is in no token that fits."""
        ids, at = [], 0
        while at < len(data):
            for size in range(min(self._longest, len(data) - at), 0, -1):
                if (id := self.by_bytes.get(data[at : at + size])) is not None:
                    ids.append(id)
                    at += size
                    break
            else:
                return None
        return ids

    def ending(self, ids: list[int]) -> Encoded:
        """Ids with the places where their bytes end."""
        return Encoded(ids, list(accumulate(len(self.table[id] or b"") for id in ids)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.by_bytes), default=1)

    @cached_property
    def _misread(self) -> re.Pattern[bytes] | None:
        """Plain texts that the encoder takes for a token of another meaning: names of special tokens and of bytes. Unigram
        models do, since their special and byte pieces are entries like any other."""
        names = [
            piece for id, piece in enumerate(self.pieces) if piece and len(piece) > 1 and (id in self.roles or BYTE_PIECE.fullmatch(piece))
        ]
        wrong = [
            name
            for name in names
            if b"".join(self.table[id] or b"" for id in self.fragment(name)[0] if id < self.width).strip() != name.encode()
        ]
        return re.compile(b"|".join(re.escape(name.encode()) for name in wrong)) if wrong else None

    def _spelled(self, data: bytes) -> Encoded:
        ids = self.spell(data)
        return Encoded([], [], 0) if ids is None else self.ending(ids)

    def _encode_text(self, data: bytes) -> Encoded:
        """Encode valid UTF-8. Ends come from the tokens' bytes when they add up to the text, else from the tokenizer."""
        text = data.decode()
        ids, places = self.fragment(text)
        known = [self.table[id] if 0 <= id < self.width else self.beyond.get(id) for id in ids]
        if None not in known and b"".join(known) == data:  # type: ignore[arg-type]
            ends = list(accumulate(map(len, known)))  # type: ignore[arg-type]
        else:
            starts = list(accumulate((len(character.encode()) for character in text), initial=0))
            ends = [starts[place] for place in places] if places is not None else [len(data)] * len(ids)
        return self._within(ids, ends, known)

    def _within(self, ids: list[int], ends: list[int], known: list[bytes | None]) -> Encoded:
        """Only ids that the model can take and that are text: ids beyond the width are spelled, unknown tokens left out."""
        kept: list[int] = []
        kept_ends: list[int] = []
        lost = None
        for id, end, data in zip(ids, ends, known):
            usable = [id] if data is not None and id < self.width else self.spell(data) if data is not None else None
            if usable is None:
                lost = len(kept) if lost is None else lost
                continue
            kept += usable
            kept_ends += [end] * len(usable)
        return Encoded(kept, kept_ends, lost)


def same_vocabulary(a: ByteVocabulary, b: ByteVocabulary) -> bool:
    """Whether every id means the same in both, so that ids need no translation. Widths may differ by padding.

    Sizes prove nothing: two tokenizers of one size may share no id.

    >>> a = ByteVocabulary.from_table([b"x", b"y"])
    >>> same_vocabulary(a, ByteVocabulary.from_table([b"x", b"y", None])), same_vocabulary(a, ByteVocabulary.from_table([b"y", b"x"]))
    (True, False)
    """
    return a.tag == b.tag


def _canonical(table: Sequence[bytes | None], reading: Reading) -> dict[bytes, int]:
    """bytes -> id. Where several ids carry the same bytes, the one that the encoder makes of them."""
    holders: dict[bytes, list[int]] = {}
    for id, data in enumerate(table):
        if data is not None:
            holders.setdefault(data, []).append(id)
    return {data: ids[0] if len(ids) == 1 else _produced(data, ids, reading) for data, ids in holders.items()}


def _produced(data: bytes, ids: list[int], reading: Reading) -> int:
    if complete_length(data) == len(data):
        text = data.decode("utf-8", "replace")
        for around in ("{}", "a{}", "{}a", "\n{}"):  # some pieces are only made beside others
            made = [id for id in reading.fragment(around.format(text))[0] if id in ids]
            if made:
                return made[0]
    return min(ids, key=lambda id: (bool(BYTE_PIECE.fullmatch(_shown(reading.pieces.get(id)) or "")), id in reading.added, id))


def _prefix_behaviour(reading: Reading, spelled: Mapping[int, bytes]) -> tuple[Literal["never", "always", "unless_present"], bool]:
    """What happens to the start of a whole text, found by trying: (is a space added, does decoding strip it)."""
    words = [data.strip().decode() for data in spelled.values() if data.isascii() and data.strip().isalpha()]
    for word in ["x", *words[:16]]:
        plain = [id for id in reading.start(word)[0] if id in spelled]
        spaced = [id for id in reading.start(" " + word)[0] if id in spelled]
        if (first := b"".join(spelled[id] for id in plain)).strip() != word.encode():
            continue
        if not first.startswith(b" "):
            return "never", False
        second = b"".join(spelled[id] for id in spaced)
        strips = reading.decode is not None and reading.decode(plain).strip(" ") == reading.decode(plain)
        return "always" if second.startswith(b"  ") else "unless_present", strips
    return "never", False


def _shown(piece: str | bytes | None) -> str | None:
    return piece.decode("latin-1") if isinstance(piece, bytes) else piece


def _refuse(tokenizer: Any, check: SelfCheck, strict: bool) -> None:
    error = WrongVocabulary(
        f"the pieces of {type(tokenizer).__name__} cannot be turned into bytes: no reading of them agrees with its own encoder",
        got=str(check),
        expected="tokens whose bytes add up to the text",
        next_step="Methods that need no bytes still work: method='draft_model' with a drafter that has the very same tokenizer,"
        " or method='prompt_lookup'",
    )
    if strict:
        raise error
    warnings.warn(str(error), LossyTokenizerWarning, stacklevel=3)
