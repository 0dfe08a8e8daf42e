"""Ids of two tokenizers about one text. Rows of the pitfall table are named in the tests."""

import copy
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anydraft.core.errors import WrongVocabulary
from anydraft.vocabulary import alignment, following, seams
from anydraft.vocabulary.alignment import Aligner, IncrementalText
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.ids import DrafterIds, TargetIds
from anydraft.vocabulary.intersection import Intersection
from anydraft.vocabulary.utf8 import complete_length

FAITHFUL = ("byte_bpe", "tiktoken_like", "byte_characters", "spm_bpe", "spm_metaspace", "unigram")
PAIRS = [*itertools.permutations(FAITHFUL, 2), ("target", "draft-spm"), ("draft-spm", "target")]
SOME = [
    ("byte_bpe", "spm_bpe"),
    ("spm_bpe", "byte_bpe"),
    ("tiktoken_like", "unigram"),
    ("unigram", "byte_characters"),
    ("target", "draft-spm"),
]
PARTS = (
    *("hello", " world", "  ", "\n", "\n\n", "\t", "it's", "don't", " 12345", "3.14", "!?", " . ", "def f(x):\n    return x"),
    *("你好", "Привет", "👍🏽", "👩‍👩‍👧", "e\u0301", "é", "ﬁ", "</s>", "<s>", "<0x0A>", "<|endoftext|>"),
)
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\u2581")  # sentencepiece cannot tell its space sign from a space
TEXT = st.one_of(st.text(CHARACTERS, max_size=30), st.lists(st.sampled_from(PARTS), max_size=9).map("".join))


@pytest.fixture(scope="session", params=PAIRS, ids="-".join)
def aligner(request, families):
    return Aligner(families.pair(*request.param))


@pytest.fixture(scope="session", params=SOME, ids="-".join)
def some_aligner(request, families):
    return Aligner(families.pair(*request.param))


def text_ids(vocabulary):
    return [id for id in range(vocabulary.width) if vocabulary.table[id] is not None]


# Text of a growing sequence


@given(chunks=st.lists(st.lists(st.integers(0, 10_000), max_size=4), max_size=8))
@settings(max_examples=30, deadline=None)
def test_pitfall_07_incremental_text_is_exact(faithful, chunks):
    """Any ids in any portions: never half a character, nothing lost, no U+FFFD made up."""
    vocabulary, text, said = faithful.vocabulary, IncrementalText(faithful.vocabulary), b""
    some, ids = text_ids(vocabulary), []
    for chunk in chunks:
        ids += [some[n % len(some)] for n in chunk]
        said += text.push(some[n % len(some)] for n in chunk)
        assert said + text.pending == vocabulary.text_of(ids) and len(text.pending) < 4
        assert len(said) == complete_length(vocabulary.text_of(ids))


def test_incremental_text_of_a_whole_text(families):
    vocabulary = families.vocabulary("spm_bpe")
    text = IncrementalText(vocabulary, start=True)
    assert b"".join(text.push([id]) for id in vocabulary.encode_whole("hello world")) == b"hello world"


# Drafter -> target


def check_candidates(aligner, text, cut, drafted=None):
    """Candidates for `text[cut:]` behind the target's ids of `text[:cut]` are its text, in ordinary tokens."""
    target, drafter = aligner.target, aligner.drafter
    state = aligner.start(target.encode_whole(text[:cut]))
    before = list(state.target_ids)
    drafted = drafter.encode(text[cut:].encode()).ids if drafted is None else drafted
    found = aligner.candidates(state, drafted)
    assert state.target_ids == before  # pitfall 24: what is committed is never rewritten
    said = target.text_of(found)
    assert all(target.table[id] is not None for id in found)  # pitfall 1: no special token
    assert drafter.text_of(drafted).startswith(said)
    assert b"\xef\xbf\xbd" not in said or "\ufffd" in text
    return said


@given(text=TEXT, cut=st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_pitfall_01_candidates_are_the_drafted_text_and_nothing_else(aligner, text, cut):
    assert check_candidates(aligner, text, min(cut, len(text))) == text[min(cut, len(text)) :].encode()


@given(text=TEXT, ids=st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=15, deadline=None)
def test_pitfall_07_any_drafter_ids_give_candidates_of_their_text(aligner, text, ids):
    """Drafters sample garbage too: half characters, bytes that are no text."""
    some = text_ids(aligner.drafter)
    drafted = [some[id % len(some)] for id in ids]
    said = check_candidates(aligner, text, len(text), drafted)
    data = aligner.drafter.text_of(drafted)
    try:
        data.decode()
        assert said == data
    except UnicodeDecodeError as error:
        assert said == data[: error.start]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("text", ["a👍🏽b", "你好吗", "e\u0301a\u030a", "👩‍👩‍👧 x"])
def test_pitfall_07_characters_split_over_drafts(some_aligner, text, k):
    """A byte at a time, k drafts a round: candidates are whole characters of the text, as many as the drafts complete."""
    target, drafter = some_aligner.target, some_aligner.drafter
    data = text.encode()
    letters = [drafter.canonical_id(bytes([byte])) for byte in data]
    state, done = some_aligner.start(target.encode_whole("x = ")), 0
    for at in range(0, len(letters), k):
        found = some_aligner.candidates(state, letters[done : at + k])
        whole = complete_length(data[: at + k])
        assert target.text_of(found) == data[done:whole]
        edit = some_aligner.sync(state, found, drafted=letters[done : at + k])
        assert edit.append == [] and edit.pending == b""  # what was drafted of it is kept, the half character is cut
        done = whole
    assert done == len(data) and drafter.text_of(state.drafter_ids).decode().endswith(text)


def test_pitfall_01_special_tokens_only_if_the_drafter_made_them(families):
    """Text that reads like a special token is text."""
    for pair in SOME:
        aligner = Aligner(families.pair(*pair))
        for text in ("</s>", "<s> hello </s>", "<|endoftext|>", "<|im_end|> x"):
            check_candidates(aligner, "say " + text, 4)


def test_pitfall_04_the_drafters_end_is_the_targets_end(families):
    aligner = Aligner(families.pair("tiktoken_like", "spm_bpe"))
    target, drafter = aligner.target, aligner.drafter
    state = aligner.start(target.encode_whole("hello"))
    drafted = [*drafter.encode(b" world").ids, drafter.ids_of("eos")[0], *drafter.encode(b" never").ids]
    found = aligner.candidates(state, drafted)
    assert found[-1] == target.ids_of("eos")[0] and target.text_of(found) == b" world"
    ignoring = Aligner(Intersection.between(target, drafter, target_stops=()))
    found = ignoring.candidates(ignoring.start(target.encode_whole("hello")), drafted)
    assert target.text_of(found) == b" world" and all(target.table[id] is not None for id in found)  # ends before it


def test_pitfall_04_a_chat_prompt_keeps_its_roles(families):
    tokenizer = families.tokenizer("tiktoken_like")
    target, drafter = families.vocabulary("tiktoken_like"), families.vocabulary("spm_bpe")
    prompt = tokenizer.encode("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    aligner = Aligner(families.pair("tiktoken_like", "spm_bpe"))
    ids, rest = aligner.prompt(prompt)
    assert rest == b"" and ids[0] == 1 and drafter.text_of(ids[1:]).decode().count("<|im_start|>") == 2
    assert ids.count(drafter.ids_of("eos")[0]) == 1  # the turn's end by role
    with_marker = copy.deepcopy(families.tokenizer("spm_bpe"))
    with_marker.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    known = ByteVocabulary.from_tokenizer(with_marker)
    ids, _ = Aligner(Intersection.between(target, known)).prompt(prompt)
    assert ids.count(with_marker.get_vocab()["<|im_start|>"]) == 2 and b"im_start" not in known.text_of(ids)
    own = [1, *drafter.encode(b" [INST] hello").ids]
    assert aligner.start(prompt, own).drafter_ids == own  # the drafter's own template wins


def test_prompt_begins_like_the_targets(families):
    """bos by role, once, whether the drafter's tokenizer adds one or not; no end token behind the prompt."""
    for target, drafter in (("spm_bpe", "unigram"), ("byte_bpe", "draft-spm"), ("byte_bpe", "wordpiece")):
        aligner = Aligner(families.pair(target, drafter))
        bos = aligner.target.ids_of("bos")[0]
        for prompt in ([bos], [bos, *aligner.target.encode(b"hello world").ids], aligner.target.encode(b"hello world").ids):
            ids, _ = aligner.prompt(prompt)
            starts = aligner.drafter.ids_of("bos") or aligner.drafter.ids_of("cls")
            assert [id for id in ids if aligner.drafter.table[id] is None] in ([], [starts[0]])
            assert ids[:1] != [starts[0]] or ids[1:2] != [starts[0]]
            assert aligner.drafter.text_of(ids, start=True).strip() == aligner.target.text_of(prompt, start=True).strip()


@pytest.mark.parametrize("pair", [("unigram", "byte_bpe"), ("spm_bpe", "tiktoken_like"), ("spm_metaspace", "byte_bpe")], ids="-".join)
def test_pitfall_05_no_space_is_added_or_lost_at_the_seam(families, pair):
    aligner = Aligner(families.pair(*pair))
    for text, cut in (("hello world", 5), ("hello world", 6), ("helloworld", 5), ("a  b", 2), ("x\n    y", 2), ("(self)", 1)):
        assert check_candidates(aligner, text, cut) == text[cut:].encode()


def test_exact_agreement_is_canonical(families):
    """Behind a token boundary of running text the candidates are what the target's tokenizer would have written."""
    aligner = Aligner(families.pair("byte_bpe", "spm_bpe"))
    ids = aligner.target.encode(("def total(values):\n    result = 0\n" * 4).encode()).ids
    exact = [
        aligner.candidates_from_text(ids[:cut], aligner.target.text_of(ids[cut : cut + 6]))[:4] == ids[cut : cut + 4]
        for cut in range(1, 60)
    ]
    assert sum(exact) >= 0.9 * len(exact)


def test_a_token_across_the_seam_is_left_out(families):
    """Committed "hel", drafted "lo": "hello" can no longer be said, "lo" can."""
    vocabulary = ByteVocabulary.from_table([b"hel", b"lo", b"hello", b" ", b"w", b"l", b"o"])
    aligner = Aligner(Intersection.between(vocabulary, vocabulary))
    assert aligner.candidates_from_text([0], "lo w") == [1, 3, 4]


PERIODIC = ("ha ha ha ha ", "| 1 | 2 |\n", "abcabc", "    \n", "na-na ")


def check_periodic(aligner, unit):
    """The next period, once: neither skipped nor said twice."""
    text = unit * 12
    for cut in range(len(text) // 2, len(text) // 2 + len(unit)):
        said = check_candidates(aligner, text[: cut + 2 * len(unit)], cut)
        assert said == text[cut : cut + 2 * len(unit)].encode()


@pytest.mark.parametrize("unit", PERIODIC)
def test_pitfall_25_periodic_text(some_aligner, unit):
    check_periodic(some_aligner, unit)


@pytest.mark.parametrize("text", ["a\n\nb", "1234567890", "x = 100000", "...", "    if", "don't", "e\u0301"])
def test_pitfall_24_re_encoding_never_rewrites_committed_ids(some_aligner, text):
    """Committed one character at a time, as a model may well write it: line breaks, digits and marks would merge."""
    target = some_aligner.target
    ids = [id for character in text for id in target.encode(character.encode()).ids]
    state, committed = some_aligner.start(target.encode_whole("x")), []
    for id in ids:
        some_aligner.candidates(state, some_aligner.drafter.encode(b" and more").ids)
        some_aligner.sync(state, [id])
        committed.append(id)
        assert state.target_ids[-len(committed) :] == committed


def test_pitfall_26_nothing_to_propose(some_aligner):
    target, drafter = some_aligner.target, some_aligner.drafter
    state = some_aligner.start(target.encode_whole("hello"))
    assert some_aligner.candidates(state, []) == []
    assert some_aligner.candidates(state, drafter.encode(b" world").ids, limit=0) == []
    assert some_aligner.candidates_from_text([], "") == [] and some_aligner.candidates_from_text([], "\ufffd") == []
    for role in ("unk", "pad", "bos"):
        for id in drafter.ids_of(role):
            if not drafter.has_role(id, "eos"):
                assert some_aligner.candidates(state, [id, *drafter.encode(b"x").ids]) == []
    assert some_aligner.sync(state, []) == following.Edit(len(state.drafter_ids), [], b"")


def test_text_drafters_yield_text_or_bytes(some_aligner):
    target = some_aligner.target
    tail = target.encode_whole("def f(x):\n    return")
    for text in (" x + 1", b" x + 1", " x + 1 \ufffd\ufffd", b" x + 1 " + "👍".encode()[:2]):
        assert target.text_of(some_aligner.candidates_from_text(tail, text)).strip() == b"x + 1"


# Target -> drafter


def check_sync(aligner, steps, direct, prompt="x = "):
    """Any committed ids, any drafted ids, any taking back: the drafter's ids are the target's text, and the edit is right."""
    target, drafter = aligner.target, aligner.drafter
    prompt_ids = target.encode_whole(prompt)
    state = aligner.start(prompt_ids)
    some, others = text_ids(target), text_ids(drafter)
    origin = len(drafter.text_of(state.drafter_ids))
    for back, new, drafts in steps:
        agree = max(len(prompt_ids), len(state.target_ids) - back)
        committed = [some[n % len(some)] for n in new] if isinstance(new, list) else target.encode(new.encode()).ids
        drafted = [others[n % len(others)] for n in drafts] if isinstance(drafts, list) else drafter.encode(drafts.encode()).ids
        had = state.drafter_ids + drafted
        edit = aligner.sync(state, committed, agree=agree, drafted=drafted, direct=direct)
        truth = target.text_of(state.target_ids[len(prompt_ids) :])
        assert drafter.text_of(state.drafter_ids)[origin:] + edit.pending == truth
        assert edit.pending == b"" or len(edit.pending) < 4
        assert had[: edit.keep] + edit.append == state.drafter_ids and (
            not edit.append or edit.append[:1] != had[edit.keep : edit.keep + 1]
        )
        assert all(drafter.table[id] is not None for id in edit.append)  # never unknown, eos or padding
        assert len(state.drafter_ends) == len(state.drafter_ids) and state.drafter_ends == sorted(state.drafter_ends)
    return state


STEP = st.tuples(
    st.integers(0, 4),
    st.one_of(st.lists(st.integers(0, 10_000), max_size=5), st.sampled_from(PARTS)),
    st.one_of(st.lists(st.integers(0, 10_000), max_size=3), st.sampled_from(PARTS)),
)


@given(steps=st.lists(STEP, max_size=6), direct=st.booleans())
@settings(max_examples=15, deadline=None)
def test_pitfall_13_the_drafters_ids_are_the_targets_text(aligner, steps, direct):
    check_sync(aligner, steps, direct)


def test_confirmed_drafts_are_kept_as_they_were_drawn(some_aligner):
    """Also where they are not what the tokenizer would have written."""
    drafter, target = some_aligner.drafter, some_aligner.target
    letters = [drafter.canonical_id(bytes([byte])) for byte in b"hello world"]
    state = some_aligner.start(target.encode_whole("x = "))
    had = len(state.drafter_ids)
    edit = some_aligner.sync(state, target.encode(b"hello").ids, drafted=letters)
    assert edit.keep == had + 5 and edit.append == []


def test_following_text_is_canonical(some_aligner):
    """Without drafts of its own, a drafter that is fed a few tokens at a time ends with the ids of the whole text."""
    target, drafter = some_aligner.target, some_aligner.drafter
    text = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n" * 3
    ids = target.encode(text.encode()).ids
    state = some_aligner.start(ids[:10])
    for at in range(10, len(ids), 3):
        some_aligner.sync(state, ids[at : at + 3])
    whole = drafter.encode_whole(text)
    assert len(state.drafter_ids) <= len(whole) + 2


def test_direct_translation_maps_and_encodes_only_the_rest(families):
    aligner = Aligner(families.pair("target", "draft-spm"))
    both, target, drafter = aligner.intersection, aligner.target, aligner.drafter
    ids = target.encode(b"def total(values):\n    return sum(value for value in values)\n").ids
    state = aligner.start(target.encode_whole("import os\n"))
    had = len(state.drafter_ids)
    aligner.sync(state, ids, direct=True)
    made = state.drafter_ids[had:]
    for mapped, run in itertools.groupby(ids, key=lambda id: int(both.t2d[id]) >= 0):
        run = list(run)
        if mapped:
            take = [int(both.t2d[id]) for id in run]
            assert made[: len(take)] == take
        else:  # neighbours outside the intersection are one piece of text
            take, text = [], target.text_of(run)
            while len(drafter.text_of(take)) < len(text):
                take.append(made[len(take)])
            assert drafter.text_of(take) == text
        made = made[len(take) :]
    assert made == [] and any(int(both.t2d[id]) < 0 for id in ids)


def test_translate_one_token(families):
    for pair in SOME:
        aligner = Aligner(families.pair(*pair))
        for id in range(0, aligner.target.width, 3):
            data = aligner.target.table[id]
            made = aligner.translate(id, b"x = 1\n")
            if data is None:
                assert made in ([], [aligner._t2d[id]])
            else:
                assert aligner.drafter.text_of(made) == data and made
                assert aligner._t2d[id] < 0 or made == [aligner._t2d[id]]
    toy = Aligner(Intersection.between(ByteVocabulary.from_table([b"a", b"\xc3", b"z"]), ByteVocabulary.from_table([b"a", b"b"])))
    assert [toy.translate(id) for id in range(3)] == [[0], [], []]


def test_half_a_character_waits_where_the_drafter_cannot_say_it():
    target = ByteVocabulary.from_table([b"a", b"\xc3", b"\xa9", b" "])
    drafter = ByteVocabulary.from_table([b"a", "é".encode(), b" "])
    aligner = Aligner(Intersection.between(target, drafter))
    for direct in (False, True):
        state = aligner.start([0])
        edit = aligner.sync(state, [0, 1], direct=direct)
        assert (edit.append, edit.pending, state.pending) == ([0], b"\xc3", b"\xc3")
        assert aligner.candidates(state, [0]) == []  # its context is not the text
        assert aligner.sync(state, [2, 3], direct=direct) == following.Edit(2, [1, 2], b"")
        assert aligner.sync(state, [], agree=3, direct=direct) == following.Edit(2, [], b"\xc3")


def test_special_tokens_in_the_middle(families):
    """A marker that both know is carried over once, is a wall for re-encoding, and goes when it is taken back."""
    tokenizer = copy.deepcopy(families.tokenizer("spm_bpe"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    target, drafter = families.vocabulary("tiktoken_like"), ByteVocabulary.from_tokenizer(tokenizer)
    aligner = Aligner(Intersection.between(target, drafter))
    mark, other = families.tokenizer("tiktoken_like").get_vocab()["<|im_start|>"], tokenizer.get_vocab()["<|im_start|>"]
    for direct in (False, True):
        state = aligner.start(target.encode_whole("hello"))
        prompt = len(state.target_ids)
        edit = aligner.sync(state, [*target.encode(b" wor").ids, mark, *target.encode(b"ld").ids], direct=direct)
        assert edit.append.count(other) == 1 and drafter.text_of(edit.append) == b" world"
        at = edit.append.index(other)
        assert drafter.text_of(edit.append[:at]) == b" wor"
        assert aligner.candidates(state, [other, *drafter.encode(b" x").ids])[0] == mark
        edit = aligner.sync(state, target.encode(b"ld").ids, agree=prompt + len(target.encode(b" wor").ids), direct=direct)
        assert other not in state.drafter_ids and drafter.text_of(state.drafter_ids).endswith(b" world") and state.special == {}
        kept = aligner.sync(state, [mark], drafted=[other, *drafter.encode(b" junk").ids], direct=direct)
        assert state.drafter_ids[-1] == other and kept.append == []  # a drafted marker that came true


def test_a_prompt_cannot_be_taken_back(some_aligner):
    state = some_aligner.start(some_aligner.target.encode_whole("hello world"))
    with pytest.raises(WrongVocabulary, match="Aligner.start"):
        some_aligner.sync(state, [], agree=1)


def test_pitfall_29_ids_of_the_wrong_side_are_refused(families):
    aligner = Aligner(families.pair("byte_bpe", "spm_bpe"))
    state = aligner.start(TargetIds.of(torch.tensor([300, 301]), aligner.target))
    theirs = DrafterIds.of(torch.tensor([300]), aligner.drafter)
    aligner.candidates(state, theirs)
    with pytest.raises(WrongVocabulary):
        aligner.sync(state, theirs)
    with pytest.raises(WrongVocabulary):
        aligner.candidates(state, [10_000])


# Tokenizers that change text


@pytest.mark.parametrize(
    "pair", [("byte_bpe", "wordpiece"), ("byte_bpe", "lower_case"), ("spm_bpe", "nfkc"), ("target", "wordpiece")], ids="-".join
)
def test_pitfall_30_a_drafter_that_folds_text_still_follows(families, pair):
    """Its ids stay the ids of the text as it sees it, drafts that came true are kept, and no step looks far back."""
    aligner = Aligner(families.pair(*pair))
    target, drafter = aligner.target, aligner.drafter
    text = "The Reader reads What the Writer has written, and we Don't know ﬁne Things. " * 4
    ids = target.encode(text.encode()).ids
    state = aligner.start(ids[:20])
    kept = rounds = 0
    for at in range(20, len(ids), 4):
        drafted = drafter.encode(target.text_of(ids[at : at + 4])).ids
        had = len(state.drafter_ids)
        edit = aligner.sync(state, ids[at : at + 4], drafted=drafted)
        assert edit.keep >= had - 3 * following.LOOK_BEHIND
        kept, rounds = kept + (edit.keep > had), rounds + 1
    assert kept > rounds / 3
    seen = drafter.text_of(state.drafter_ids).split()
    assert seen[-6:] == drafter.text_of(drafter.encode_whole(text)).split()[-6:]


@pytest.mark.parametrize("pair", [("wordpiece", "byte_bpe"), ("lower_case", "spm_bpe"), ("nfkc", "unigram")], ids="-".join)
def test_pitfall_30_a_target_that_folds_text_gets_candidates_in_its_own_spelling(families, pair):
    aligner = Aligner(families.pair(*pair))
    target, drafter = aligner.target, aligner.drafter
    state = aligner.start(target.encode_whole("the reader reads"))
    found = aligner.candidates(state, drafter.encode(b" What the Writer wrote").ids)
    folded = b" What the Writer wrote" if pair[0] == "nfkc" else b" what the writer wrote"
    assert target.text_of(found) == folded
    assert target.text_of(aligner.candidates(state, drafter.encode(b"er than").ids)) == b"er than"  # a word that goes on


# Cost


class Counted:
    """An encoder that counts the characters it is given."""

    def __init__(self, encode):
        self.encode, self.characters = encode, 0

    def __call__(self, text):
        self.characters += len(text)
        return self.encode(text)


def check_flat_cost(aligner, direct):
    """Characters encoded per round, for prompts of 1, 4 and 16 pages."""
    page = (
        "def total(values):\n    result = 0\n    for value in values:\n        result += value  # it's 12345\n    return result\n\n\n" * 3
    )
    costs = []
    for pages in (1, 4, 16):
        counters = [Counted(v.fragment) for v in (aligner.target, aligner.drafter)]
        target, drafter = (dataclasses.replace(v, fragment=c) for v, c in zip((aligner.target, aligner.drafter), counters))
        counted = Aligner(Intersection.between(target, drafter))
        ids = target.encode((page * (pages + 1)).encode()).ids
        start = len(target.encode((page * pages).encode()).ids)
        state = counted.start(ids[:start])
        for counter in counters:
            counter.characters = 0
        rounds = 0
        for at in range(start, start + 60, 4):
            drafted = drafter.encode(target.text_of(ids[at : at + 5])).ids
            counted.candidates(state, drafted)
            counted.sync(state, ids[at : at + 4], drafted=drafted, direct=direct)
            rounds += 1
        costs.append(sum(counter.characters for counter in counters) / rounds)
    assert costs[2] <= 1.05 * costs[0] + 1, costs


@pytest.mark.parametrize("direct", [False, True])
def test_pitfall_31_a_round_costs_the_same_behind_any_prompt(some_aligner, direct):
    check_flat_cost(some_aligner, direct)


# Mutants: known mistakes, each of which a check above must notice


def whole_window(vocabulary, before, ids, text):
    """Propose the window again where nothing matches."""
    return vocabulary.encode(before + text)


def alone_always(vocabulary, before, ids, text):
    """Encode the new text as if it began a text, with its special tokens and its leading space."""
    ids, _ = vocabulary.whole(text.decode())
    return seams.Encoded(list(ids), [len(text)] * len(ids))


def replaced(before, text):
    """Half characters as U+FFFD."""
    return (before + text).decode("utf-8", "replace").encode()[len(before) :]


def far_back(ids, vocabulary, size, room):
    """Everything before the end as the window."""
    return room


@pytest.mark.parametrize("pair", [("spm_bpe", "byte_bpe"), ("unigram", "byte_characters")], ids="-".join)
@pytest.mark.parametrize("mutant", ["window twice", "with specials", "U+FFFD", "no rollback", "by number"])
def test_mutants_are_caught(families, monkeypatch, pair, mutant):
    aligner = Aligner(families.pair(*pair))
    emoji = [aligner.drafter.canonical_id(bytes([byte])) for byte in "a👍".encode()[:-1]]
    if mutant == "window twice":
        monkeypatch.setattr(alignment, "continuing", whole_window)
    elif mutant == "with specials":
        monkeypatch.setattr(alignment, "continuing", alone_always)
    elif mutant == "U+FFFD":
        monkeypatch.setattr(alignment, "proper", replaced)
    elif mutant == "no rollback":
        monkeypatch.setattr(following.Follower, "_cut", lambda self, keep: None)
    else:  # drafts kept by their number and not by their text
        monkeypatch.setattr(
            following.Follower, "accept_drafted", lambda self: self._push(self.replaced, [len(self.state.text)] * len(self.replaced))
        )
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        check_periodic(aligner, PERIODIC[0])
        for cut in range(1, 9):
            check_candidates(aligner, "hello world", cut)
        check_candidates(aligner, "x = ", 4, emoji)
        check_sync(aligner, [(0, "hello", ""), (2, " there", []), (0, "x", " world")], direct=False)


@pytest.mark.parametrize("pair", SOME[:2], ids="-".join)
def test_looking_back_over_everything_is_caught(families, monkeypatch, pair):
    monkeypatch.setattr(alignment, "REACH", 10**6)
    monkeypatch.setattr(alignment, "stretch", far_back)
    with pytest.raises(AssertionError):
        check_flat_cost(Aligner(families.pair(*pair)), direct=False)
