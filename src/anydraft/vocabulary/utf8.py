"""Text as UTF-8 bytes that may begin or end inside a character, and may hold bytes that are no text at all."""

import codecs
import re

from anydraft.vocabulary.pieces import BYTE_PIECE

EVERY_BYTE = frozenset([*range(0xC0), *range(0xC2, 0xF5)])
"""Every byte that occurs in some text."""


def complete_length(data: bytes) -> int:
    """Length of the part of `data` before a UTF-8 character that is cut off at its end. Bytes that no continuation could make
    valid count as complete.

    >>> complete_length("é".encode()[:1]), complete_length(b"ab"), complete_length(b"a\\xff")
    (0, 2, 2)
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tail = data[-4:]
    decoder.decode(tail)
    return len(data) - len(decoder.getstate()[0])


def inside_character(text: bytes | bytearray, place: int) -> bool:
    """Whether `place` lies between the bytes of one character of `text`."""
    if place >= len(text) or text[place] & 0xC0 != 0x80:
        return False
    start = bytes(text[max(0, place - 3) : place])
    return complete_length(start) < len(start)


def proper(before: bytes, text: bytes) -> bytes:
    """`text` up to where it stops being UTF-8, or to the last whole character.

    Args:
        before: the first bytes of a character that `text` goes on with, mostly none.
        text: a drafter may produce any bytes.
    """
    data = before + text
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return text[: max(0, error.start - len(before))]
    return text


def runs(data: bytes, split_byte_pieces: bool) -> list[tuple[bytes, bool]]:
    """Split into valid UTF-8 and other bytes. Text that reads like a byte piece is split too, or some encoders take it for one."""
    found: list[tuple[bytes, bool]] = []
    while data:
        try:
            data.decode()
            good, bad = len(data), len(data)
        except UnicodeDecodeError as error:
            good, bad = error.start, error.end
        text, at = data[:good], 0
        if split_byte_pieces and b"<0x" in text:
            for match in re.finditer(BYTE_PIECE.pattern.encode(), text):
                found.append((text[at : match.start() + 1], True))
                at = match.start() + 1
        if text[at:]:
            found.append((text[at:], True))
        if data[good:bad]:
            found.append((data[good:bad], False))
        data = data[bad:]
    return found
