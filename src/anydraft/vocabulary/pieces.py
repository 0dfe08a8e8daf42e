"""How the pieces of a tokenizer spell bytes.

A tokenizer stores strings; what they stand for depends on its family. Three notations cover the field:

    byte alphabet   GPT-2's printable stand-ins, one character a byte (byte-level BPE, tiktoken conversions)
    byte pieces     `<0x0A>` is the byte 10 where the model falls back to bytes (sentencepiece-like BPE, Unigram)
    decoder text    whatever the tokenizer's own decoder appends for the piece in the middle of a text (metaspace,
                    WordPiece's joining space, replacements)

A `Spelling` reads one piece in one notation. Which one is right is not guessed from names: bytes.py tries the
candidates that fit the tokenizer's description, in order, against the tokenizer's own encoder.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A piece that stands for one byte in vocabularies with byte fallback, and a plain string in all others."""

SPACE_SIGN = "\u2581"
"""The character that sentencepiece writes for a space."""


def _byte_alphabet() -> dict[str, int]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


BYTE_ALPHABET = _byte_alphabet()
"""GPT-2's alphabet: character -> byte. Printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards."""


@dataclass(frozen=True)
class Spelling:
    """One way to read pieces: its name in messages, and the reading (None where a piece cannot be read)."""

    name: str
    read: Callable[[str], bytes | None]


def from_byte_alphabet(piece: str) -> bytes:
    """The bytes of a byte-level piece; one that leaves the alphabet (an added token) is literal text.

    >>> from_byte_alphabet("ĠcafÃ©")
    b' caf\\xc3\\xa9'
    """
    try:
        return bytes(map(BYTE_ALPHABET.__getitem__, piece))
    except KeyError:
        return piece.encode("utf-8", "ignore")


def from_latin_1(piece: str) -> bytes | None:
    """The byte of a one-character piece whose code point is that byte (ByT5 and its kin); None otherwise."""
    return bytes([ord(piece)]) if len(piece) == 1 and ord(piece) < 256 else None


def literal(piece: str) -> bytes:
    """A piece that is its own text."""
    return piece.encode("utf-8", "ignore")


def with_space_sign(piece: str) -> bytes:
    """A sentencepiece piece: the space sign is a space, all of them and not just the first.

    >>> with_space_sign("▁▁if")
    b'  if'
    """
    return literal(piece.replace(SPACE_SIGN, " "))


def with_byte_pieces(read: Callable[[str], bytes | None]) -> Callable[[str], bytes | None]:
    """The same reading for a vocabulary in which `<0xNN>` is a byte."""

    def reading(piece: str) -> bytes | None:
        return bytes([int(piece[3:5], 16)]) if BYTE_PIECE.fullmatch(piece) else read(piece)

    return reading


def through_decoder(decode: Callable[[list[str]], str], suffixed: bool) -> Callable[[str], bytes | None]:
    """What a decoder appends for a piece that stands between others.

    The lone piece would be read wrongly: decoders drop the first space of a text, and the last piece's word suffix.

    Args:
        decode: the decoder, list of pieces to text.
        suffixed: whether words end in a suffix (`</w>`), so that a neighbour on the right is needed too.
    """
    left, right = ["a"], ["a"] if suffixed else []
    before, after = decode(left), "".join(right)

    def reading(piece: str) -> bytes | None:
        text = decode([*left, piece, *right])
        if not (text.startswith(before) and text.endswith(after)):
            return None
        return literal(text[len(before) : len(text) - len(after)])

    return reading


def joined_by_spaces(piece: str) -> bytes:
    """A piece of a tokenizer without a decoder, which the library joins by spaces."""
    return literal(" " + piece)


def candidates(description: dict[str, Any] | None, decode: Callable[[list[str]], str] | None) -> list[Spelling]:
    """The spellings that fit a tokenizer, likeliest first.

    Args:
        description: the tokenizer's own JSON (`backend_tokenizer.to_str()`), None where it has none.
        decode: its decoder, pieces to text, None where it has none.
    """
    if description is None:
        return [
            Spelling("latin-1 characters", from_latin_1),
            Spelling("byte alphabet", from_byte_alphabet),
            Spelling("space sign and byte pieces", with_byte_pieces(with_space_sign)),
            Spelling("word pieces", lambda piece: literal(piece[2:] if piece.startswith("##") else " " + piece)),
            Spelling("literal text", literal),
        ]
    parts = [description.get(name) for name in ("decoder", "pre_tokenizer", "normalizer")]
    if any(kinds(part) & {"ByteLevel"} for part in parts):
        return [Spelling("byte alphabet", from_byte_alphabet)]
    fallback = "ByteFallback" in kinds(parts[0]) or bool(description["model"].get("byte_fallback"))
    wrap = with_byte_pieces if fallback else lambda read: read
    if decode is not None:
        return [Spelling("decoder text", wrap(through_decoder(decode, "BPEDecoder" in kinds(parts[0]))))]
    return [
        Spelling("space sign", wrap(with_space_sign)),
        Spelling("literal text", wrap(literal)),
        Spelling("words joined by spaces", wrap(joined_by_spaces)),
    ]


def kinds(part: Any) -> set[str]:
    """Every `type` named in one part of a tokenizer's JSON, nested sequences included.

    >>> sorted(kinds({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}))
    ['ByteFallback', 'Fuse', 'Sequence']
    """
    if isinstance(part, list):
        return set().union(*map(kinds, part))
    if not isinstance(part, dict):
        return set()
    own = {part["type"]} if isinstance(part.get("type"), str) else set()
    return own.union(*(kinds(value) for value in part.values()))
