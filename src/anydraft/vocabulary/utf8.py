"""Text as UTF-8 bytes that may begin or end inside a character, and may hold bytes that are no text at all."""

import codecs
import re

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


def runs(data: bytes, guard: re.Pattern[bytes] | None = None) -> list[tuple[bytes, bool]]:
    """Split into valid UTF-8 (True) and other bytes (False).

    Args:
        data: any bytes.
        guard: names that an encoder would misread as a token; text is split behind their first byte.
    """
    found: list[tuple[bytes, bool]] = []
    while data:
        try:
            data.decode()
            good, bad = len(data), len(data)
        except UnicodeDecodeError as error:
            good, bad = error.start, error.end
        at = 0
        for match in guard.finditer(data, 0, good) if guard is not None else ():
            found.append((data[at : match.start() + 1], True))
            at = match.start() + 1
        found += [(data[at:good], True)] * (at < good) + [(data[good:bad], False)] * (good < bad)
        data = data[bad:]
    return found
