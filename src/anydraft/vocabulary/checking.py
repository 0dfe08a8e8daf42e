"""Does a reading of the pieces agree with the tokenizer itself?

Every candidate spelling is tried on a probe: lines of several scripts and notations, and a sample of the vocabulary's own pieces.
A line is *exact* if the bytes of its tokens are the bytes of the line, and *decoded* if they are what the tokenizer's own
decoder returns. Exact lines prove the table and the encoder; decoded ones prove the table for a tokenizer that changes text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anydraft.vocabulary.pieces import Spelling
from anydraft.vocabulary.reading import Reading

PROBE = (
    "The quick brown fox jumps over 12345 lazy dogs, twice.",
    "don't, we've, it's 3.14 o'clock; n't 's 'm !? ( a ) [b] {c} <d> \"e\"",
    "def f(x):\n\tif x:\n\t\treturn  -x\n\n\n    return   x ** 2\r\n",
    "   leading, trailing and      runs of spaces   ",
    "MiXeD CASE",
    "naïve café", "“quotes” … — €",
    "Привет, мир", "Ελληνικά", "עברית", "العربية", "हिन्दी", "ไทย", "你好,世界。", "日本語テキスト", "한국어",
    "👍🏽 ok", "👩‍👩‍👧", "🇩🇪",
    "e\u0301", "a\u030a\u0323",  # combining marks: a tokenizer that composes or reorders them changes the text
    "\ufb01", "\u2167", "\uff46\uff55\uff4c\uff4c", "\u00bd", "\u00a0", "\u3000",  # folded by NFKC
)  # fmt: skip
"""Lines that between them show every habit that changes a text. Short where a small vocabulary may lack the characters."""

SAMPLE = 96
"""How many of the vocabulary's own pieces are encoded again."""


@dataclass(frozen=True)
class SelfCheck:
    """How a spelling did on the probe. Lines with an unknown token prove nothing and are not counted."""

    spelling: str
    lines: int  # that could be judged
    exact: int  # bytes of the tokens are the line
    decoded: int  # bytes of the tokens are what the decoder says, without being the line
    failures: tuple[str, ...]  # lines that do not come back

    @property
    def passed(self) -> bool:
        """Whether every judged line is exact or decoded, and there was one."""
        return 0 < self.lines == self.exact + self.decoded

    @property
    def faithful(self) -> bool:
        """Whether every judged line is exact."""
        return self.exact == self.lines

    def __str__(self) -> str:
        """One line for messages."""
        shown = ", ".join(map(repr, self.failures[:3])) + (", ..." if len(self.failures) > 3 else "")
        return f"read as {self.spelling}: {self.exact} of {self.lines} probe lines come back" + (f", not {shown}" if shown else "")


def choose_spelling(reading: Reading) -> tuple[dict[int, bytes], SelfCheck]:
    """The spelling that brings back most of the probe, earlier ones first among equals.

    Returns:
        bytes of every text id of the tokenizer, and the check of that spelling.
    """
    best: tuple[dict[int, bytes], SelfCheck] | None = None
    for spelling in reading.spellings:
        spelled = spell_all(reading, spelling)
        check = judge(reading, spelling.name, spelled)
        if best is None or (check.exact, check.decoded) > (best[1].exact, best[1].decoded):
            best = spelled, check
    assert best is not None, "every kind of tokenizer has at least one spelling"
    return best


def spell_all(reading: Reading, spelling: Spelling) -> dict[int, bytes]:
    """Bytes of every id that is text. Pieces that stand for nothing are left out."""
    spelled = {}
    for id, piece in reading.pieces.items():
        if id not in reading.roles and (data := spelling.read(piece)):  # type: ignore[arg-type]
            spelled[id] = data
    for id in reading.added & spelled.keys():
        piece = reading.pieces[id]
        plain = piece.encode("utf-8", "ignore") if isinstance(piece, str) else piece
        # an added token is matched in the raw text, so it is its own text; unless it is an ordinary piece as well
        if plain != spelled[id] and len(spelled[id]) > 1 and id not in _encoded(reading, spelled[id]):
            spelled[id] = plain
    return spelled


def judge(reading: Reading, name: str, spelled: Mapping[int, bytes]) -> SelfCheck:
    """Encode the probe and compare."""
    lines = exact = decoded = 0
    failures, decode = [], reading.decode
    for line in (*PROBE, *_own_lines(reading, spelled)):
        ids = reading.fragment(line)[0]
        if not ids or any(id not in spelled for id in ids) or _drops_a_character(reading, line):
            continue
        lines += 1
        data = b"".join(spelled[id] for id in ids)
        if data in (line.encode(), b" " + line.encode()):
            exact += 1
            continue
        failures.append(line)
        if decode is not None:
            said, shown = decode(ids), data.decode("utf-8", "replace")
            decoded += said in (shown, shown.removeprefix(" "), shown.removesuffix(" "))
    return SelfCheck(name, lines, exact, decoded, tuple(failures))


def _own_lines(reading: Reading, spelled: Mapping[int, bytes]) -> list[str]:
    """A sample of the vocabulary's texts, alone and in pairs: a vocabulary too small for the probe is judged by itself."""
    texts = [data.decode() for id, data in sorted(spelled.items()) if _is_text(data)]
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    words = [word for text in sample if (word := text.strip())]
    pairs = list(zip(words, words[1:]))
    if not any(" " in text for text in texts):  # no token for a space: lines with one could only fail
        return [*sample, *(a + b for a, b in pairs)]
    apart = [(a, b) for a, b in pairs if reading.fragment(f"{a} {b}")[0] != reading.fragment(a + b)[0]]
    return [*sample, *(a + b for a, b in pairs), *(a + space + b for a, b in apart for space in (" ", "  "))]


def _drops_a_character(reading: Reading, line: str) -> bool:
    """Models without an unknown token leave unknown characters out without a word. Such a line proves nothing."""
    return any(not character.isspace() and not reading.fragment(character)[0] for character in set(line))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encoded(reading: Reading, data: bytes) -> list[int]:
    return reading.fragment(data.decode())[0] if _is_text(data) else []
