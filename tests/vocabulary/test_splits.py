"""Counting the ways in which one vocabulary spells another's tokens."""

import itertools
import random

import pytest

from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection
from anydraft.vocabulary.splits import MANY, Splits


def all_splits(text: bytes, pieces: set[bytes]) -> list[tuple[bytes, ...]]:
    """Every way to cut a text into pieces, by trying every cut."""
    found = []
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(text)]
        parts = tuple(text[a:b] for a, b in zip([0, *ends], ends))
        if all(part in pieces for part in parts):
            found.append(parts)
    return found


def random_texts(rng: random.Random, count: int, longest: int) -> list[bytes]:
    return sorted({bytes(rng.choices(b"ab", k=rng.randint(1, longest))) for _ in range(count)})


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_the_splits_of_every_prefix(seed):
    rng = random.Random(seed)
    tokens, pieces = random_texts(rng, 9, 6), random_texts(rng, 5, 3)
    splits = Splits(ByteVocabulary.from_table(tokens), ByteVocabulary.from_table(pieces), max_rows=MANY)
    for text in tokens:
        ways = len(all_splits(text, set(pieces)))
        counted = 1 + sum(len(all_splits(text[:end], set(pieces))) for end in range(1, len(text) + 1))
        assert splits.rows.get(text) == (counted if ways else None)
        found = walk(splits, text) if ways else []
        assert sorted(found) == sorted(all_splits(text, set(pieces)))


def walk(splits: Splits, text: bytes) -> list[tuple[bytes, ...]]:
    """The splits that `pieces` leads to."""
    steps, found, todo = splits.pieces(text), [], [((), 0)]
    while todo:
        parts, at = todo.pop()
        if at == len(text):
            found.append(parts)
        todo += [((*parts, text[at:end]), end) for _, end in (steps[at] if at < len(text) else ())]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_continuing_draws_keep_the_text_a_prefix(seed):
    rng = random.Random(100 + seed)
    tokens, pieces = random_texts(rng, 9, 6), random_texts(rng, 6, 3)
    drafter = ByteVocabulary.from_table(pieces)
    splits = Splits(ByteVocabulary.from_table(tokens), drafter, max_rows=MANY)
    spelled = [text for text in tokens if all_splits(text, set(pieces))]
    assert sorted(splits.tokens) == spelled
    for text in [b"", *spelled]:
        keeping = [id for id, piece in enumerate(pieces) if any(token.startswith(text + piece) for token in spelled)]
        assert splits.continuing(text).tolist() == keeping
        assert splits.ends(text) == (not any(token != text and token.startswith(text) for token in spelled))


@pytest.mark.parametrize("length, longest, ways", [(8, 2, 34), (8, 3, 81), (8, 4, 108), (16, 2, 1597), (16, 3, 10609), (12, 12, 2048), (16, 1, 1)])
def test_the_published_counts(length, longest, ways):
    """Ways to split a token when the drafter has every substring up to a length: the L-step Fibonacci numbers."""
    text = bytes(range(65, 65 + length))
    pieces = [text[a:b] for a in range(length) for b in range(a + 1, min(length, a + longest) + 1)]
    tokens = [text[:end] for end in range(1, length + 1)]
    splits = Splits(ByteVocabulary.from_table(tokens), ByteVocabulary.from_table(pieces), max_rows=MANY)
    assert splits.rows[text] - splits.rows[text[:-1]] == ways
    assert longest > 1 or splits.rows[text] == length + 1


def test_a_long_run_of_one_letter_does_not_overflow():
    splits = Splits(ByteVocabulary.from_table([b"a" * 3000]), ByteVocabulary.from_table([b"a", b"aa", b"aaa"]), max_rows=5)
    assert splits.rows[b"a" * 3000] >= MANY and not splits.tokens and splits.share == 0


def test_dear_tokens_and_their_prefixes_are_left_out():
    target = ByteVocabulary.from_table([b"a", b"ab", b"abab", b"b"])
    splits = Splits(target, ByteVocabulary.from_table([b"a", b"b", b"ab"]), max_rows=4)
    assert splits.rows == {b"a": 2, b"ab": 4, b"abab": 10, b"b": 2}
    assert sorted(splits.tokens) == [b"a", b"ab", b"b"] and splits.share == 0.75
    assert not splits.is_prefix(b"aba") and splits.ends(b"ab")


def test_of_two_ids_with_the_same_bytes_one_spells():
    drafter = ByteVocabulary.from_table([b"b", b"a", b"a"])
    splits = Splits(ByteVocabulary.from_table([b"aa"]), drafter, max_rows=9)
    assert splits.pieces(b"aa") == [[(1, 1)], [(1, 2)]] and splits.continuing(b"").tolist() == [1]


def test_a_pair_is_counted_once():
    both = Intersection.between(ByteVocabulary.from_table([b"a"]), ByteVocabulary.from_table([b"a"]))
    assert Splits.of(both, 4) is Splits.of(both, 4) and Splits.of(both, 4) is not Splits.of(both, 5)
