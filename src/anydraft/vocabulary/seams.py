"""Encoding new text behind old text: where the tokens of the new part begin.

Encoding the new part alone is wrong where a tokenizer joins it to what stands before; encoding everything costs the whole
text. So a bounded stretch before the end is encoded again together with the new part, and the seam is found by its place in
the text: the ids agree up to it, or at least one token ends exactly there. If a token lies across it, there is no seam.
"""

from __future__ import annotations

from collections.abc import Sequence

from anydraft.vocabulary.bytes import ByteVocabulary, Encoded

WORD_START = 8
"""How many more ids a stretch may take in so that it begins at white space, where tokenizers begin afresh."""


def text_tail(ids: Sequence[int], vocabulary: ByteVocabulary, most: int) -> int:
    """How many ids at the end are text without a break, at most `most`."""
    count = 0
    while count < min(most, len(ids)) and vocabulary.table[ids[-1 - count]] is not None:
        count += 1
    return count


def stretch(ids: Sequence[int], vocabulary: ByteVocabulary, size: int, most: int) -> int:
    """How many ids at the end to encode again: `size` or a few more, at most `most`, text without a break, beginning at white space if
    possible and never inside a character."""
    count, most = 0, min(most, len(ids))
    while count < most:
        first = (vocabulary.table[ids[-count]] or b"")[:1] if count else b""
        inside = first != b"" and first[0] & 0xC0 == 0x80
        if count >= size and not inside and (count >= size + WORD_START or not count or first.isspace()):
            break
        if vocabulary.table[ids[-1 - count]] is None:
            break
        count += 1
    return count


def continuing(vocabulary: ByteVocabulary, before: bytes, ids: Sequence[int] | None, text: bytes) -> Encoded | None:
    """The tokens of `text` behind `before`, encoded together.

    Args:
        before: the stretch before the seam.
        ids: the ids it has now, None if only its bytes are known.
        text: what follows.

    Returns:
        ids of `text` alone, ends counted from the seam; None if a token lies across the seam.
    """
    return parted(vocabulary.encode(before + text), len(before), ids)


def parted(made: Encoded, seam: int, ids: Sequence[int] | None) -> Encoded | None:
    """The part of `made` behind the first `seam` bytes, which have the ids `ids` now; None if a token lies across."""
    agree = ids is not None and made.ids[: len(ids)] == list(ids)
    place = len(ids) if agree else _boundary(made, seam)  # type: ignore[arg-type]
    if place is None or (made.lost is not None and made.lost < place):
        return None
    lost = None if made.lost is None else made.lost - place
    return Encoded(made.ids[place:], [end - seam for end in made.ends[place:]], lost)


def alone(vocabulary: ByteVocabulary, text: bytes) -> Encoded:
    """The tokens of `text` by itself. Where a tokenizer can only begin with a word, the text is spelled instead."""
    made = vocabulary.encode(text)
    if not text.startswith(b" ") and vocabulary.text_of(made.ids) == b" " + text and (ids := vocabulary.spell(text)) is not None:
        return vocabulary.ending(ids)
    return made


def behind(vocabulary: ByteVocabulary, before: bytes, text: bytes) -> Encoded:
    """`continuing` for a stretch given as bytes, `alone` where there is no seam."""
    while before and before[0] & 0xC0 == 0x80:
        before = before[1:]
    made = continuing(vocabulary, before, None, text) if before else None
    return made if made is not None else alone(vocabulary, text)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    for place, (one, other) in enumerate(zip(a, b)):
        if one != other:
            return place
    return min(len(a), len(b))


def _boundary(made: Encoded, place: int) -> int | None:
    """Index of the first token behind `place`, if a token ends there. Byte tokens of one character may share an end: the last counts."""
    if place == 0:
        return 0
    ends = [index + 1 for index, end in enumerate(made.ends) if end == place]
    return ends[-1] if ends else None
