"""Maps between vocabularies, on real tokenizers and on tables that are many-to-one. Rows of the pitfall table are named."""

import copy
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anydraft.core.errors import WrongVocabulary
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.ids import DrafterIds, TargetIds
from anydraft.vocabulary.intersection import Intersection

KINDS = ("byte_bpe", "tiktoken_like", "byte_characters", "spm_bpe", "spm_metaspace", "unigram", "wordpiece", "nfkc")
PAIRS = [*itertools.permutations(KINDS, 2), ("target", "draft-spm"), ("draft-spm", "target")]
FOREIGN = [("byte_bpe", "spm_bpe"), ("spm_bpe", "byte_bpe"), ("tiktoken_like", "unigram"), ("target", "draft-spm")]


def check(both):
    """What every intersection must be."""
    target, drafter = both.target, both.drafter
    assert both.d2t.shape == (drafter.width,) and both.t2d.shape == (target.width,)
    assert both.d2t.dtype == both.t2d.dtype == both.target_ids.dtype == both.drafter_ids.dtype == torch.int64
    mapped = (both.d2t >= 0).nonzero().flatten()
    assert len(mapped) == both.size == len(both.d2t[mapped].unique())  # injective both ways
    assert torch.equal(both.t2d[both.d2t[mapped]], mapped)
    assert torch.equal(both.target_ids, both.target_ids.sort().values) and torch.equal(both.d2t[both.drafter_ids], both.target_ids)
    for d, t in zip(both.drafter_ids.tolist(), both.target_ids.tolist()):
        assert drafter.table[d] == target.table[t]
        assert drafter.table[d] is not None or (drafter.role_of(d) != "unused" and target.role_of(t) != "unused")


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pitfall_08_mapped_tokens_have_the_same_bytes(families, pair):
    both = families.pair(*pair)
    check(both)
    shared = {data for data in both.target.table if data} & {data for data in both.drafter.table if data}
    assert {both.target.table[t] for t in both.target_ids.tolist()} - {None} == shared  # and none is missed


@pytest.mark.parametrize("pair", FOREIGN, ids="-".join)
def test_pitfall_09_bytes_find_more_than_strings(families, pair):
    both = families.pair(*pair)
    found = {both.target.table[t] for t in both.target_ids.tolist()}
    by_strings = {both.target.table[t] for t in both.string_ids.tolist()}
    assert both.size > both.size_by_strings
    assert b"\n" in found - by_strings and any(not data.isascii() for data in found - by_strings if data)
    law = torch.rand(3, both.target.width, dtype=torch.float64)
    law[:, both.target.canonical_id(b"\n")] += 50.0
    law /= law.sum(-1, keepdim=True)
    assert bool((both.expected(law) > both.expected(law, by="strings")).all())
    assert torch.allclose(both.expected(law), law[:, both.target_ids].sum(-1))
    assert f"{both.size} common tokens" in both.describe() and f"by strings {both.size_by_strings}" in both.describe()


@pytest.mark.parametrize("pair", FOREIGN, ids="-".join)
def test_matching_strings_is_caught(families, pair):
    """Mutant: keyed by piece strings. The byte-level letter é is the byte E9, the sentencepiece letter is two other bytes."""
    target, drafter = families.vocabulary(pair[0]), families.vocabulary(pair[1])
    strings = {piece: id for id, piece in enumerate(target.pieces) if target.table[id]}
    pairs = {id: strings[piece] for id, piece in enumerate(drafter.pieces) if piece in strings and drafter.table[id]}
    with pytest.raises(AssertionError):
        check(Intersection._from_pairs(target, drafter, pairs))


@pytest.mark.parametrize("name", ["spm_bpe", "unigram", "draft-spm"])
def test_pitfall_10_several_ids_of_the_same_bytes(families, corpus, name):
    """One is mapped, the one that texts are made of. Mapping all is refused, mapping none loses most of the mass."""
    target, drafter = families.vocabulary("byte_bpe"), families.vocabulary(name)
    holders: dict[bytes, list[int]] = {}
    for id, data in enumerate(drafter.table):
        if data:
            holders.setdefault(data, []).append(id)
    several = {data: ids for data, ids in holders.items() if len(ids) > 1}
    assert len(several) > 50  # printable ASCII, twice
    everything = {id: target.by_bytes[data] for data, ids in holders.items() if data in target.by_bytes for id in ids}
    with pytest.raises(WrongVocabulary, match="two drafter ids"):
        Intersection._from_pairs(target, drafter, everything)

    used = torch.bincount(torch.tensor(drafter.encode("".join(corpus).encode()).ids), minlength=drafter.width).double()
    law = used / used.sum()
    mirrored = Intersection.between(drafter, target)  # the many-to-one vocabulary as the target
    without = [id for id in mirrored.target_ids.tolist() if drafter.table[id] not in several]
    assert float(mirrored.expected(law)) > float(law[without].sum()) + 0.1


@pytest.mark.parametrize("padding", [(0, 0), (64, 0), (0, 64), (37, 5)])
def test_pitfall_11_padded_ids_are_never_mapped(families, padding):
    target, drafter = families.vocabulary("byte_bpe", padding[0]), families.vocabulary("spm_bpe", padding[1])
    both, plain = Intersection.between(target, drafter), families.pair("byte_bpe", "spm_bpe")
    check(both)
    assert bool((both.d2t[drafter.width - padding[1] :] == -1).all()) and bool((both.t2d[target.width - padding[0] :] == -1).all())
    assert torch.equal(both.target_ids, plain.target_ids) and torch.equal(both.drafter_ids, plain.drafter_ids)


@pytest.mark.parametrize("width", [300, 500, 651])
def test_pitfall_12_a_model_narrower_than_its_tokenizer(families, width):
    drafter = ByteVocabulary.from_tokenizer(families.tokenizer("tiktoken_like"), width)
    both = Intersection.between(families.vocabulary("spm_bpe"), drafter)
    check(both)
    assert int(both.drafter_ids.max()) < width


TOKENS = st.lists(st.sampled_from([None, b"a", b"b", b"ab", b"ba", b"aa", b"c", "é".encode(), b"\xc3"]), min_size=1, max_size=10)


@given(target=TOKENS, drafter=TOKENS, eos=st.booleans())
@settings(max_examples=80, deadline=None)
def test_pitfall_12_any_tables(target, drafter, eos):
    """Duplicates, gaps, ids that stand for nothing, overlap from none to all."""
    made = [ByteVocabulary.from_table([*table, None], {len(table): "eos"} if eos else {}) for table in (target, drafter)]
    if not eos and not {*target} & {*drafter} - {None}:
        with pytest.raises(WrongVocabulary, match="slem"):
            Intersection.between(*made)
        return
    both = Intersection.between(*made)
    check(both)
    assert both.size == len({*target} & {*drafter} - {None}) + eos


def test_a_vocabulary_with_itself_is_the_identity(families):
    both = Intersection.between(families.vocabulary("byte_bpe"), families.vocabulary("byte_bpe"))
    assert torch.equal(both.d2t, torch.arange(both.target.width))


def test_pitfall_04_the_end_of_a_text_is_matched_by_role(families):
    target, drafter = families.vocabulary("tiktoken_like"), families.vocabulary("spm_bpe")
    end, other_end = target.ids_of("eos")[0], drafter.ids_of("eos")[0]
    both = Intersection.between(target, drafter)
    assert int(both.d2t[other_end]) == end and "</s> -> <|im_end|>" in both.describe()
    assert int(both.d2t[drafter.ids_of("bos")[0]]) == -1 and int(both.d2t[drafter.ids_of("unk")[0]]) == -1
    for stops in ({"target_stops": ()}, {"drafter_stops": ()}):  # a request that ignores eos on one side
        assert int(Intersection.between(target, drafter, **stops).d2t[other_end]) == -1
    endoftext = families.tokenizer("tiktoken_like").get_vocab()["<|endoftext|>"]
    assert int(Intersection.between(target, drafter, target_stops={endoftext}).d2t[other_end]) == endoftext


def test_special_tokens_of_one_name_stand_for_each_other(families):
    tokenizer = copy.deepcopy(families.tokenizer("spm_bpe"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|endoftext|>"]})
    drafter = ByteVocabulary.from_tokenizer(tokenizer)
    target = families.vocabulary("tiktoken_like")
    both = Intersection.between(target, drafter)
    vocab, other = families.tokenizer("tiktoken_like").get_vocab(), tokenizer.get_vocab()
    assert int(both.d2t[other["<|im_start|>"]]) == vocab["<|im_start|>"]
    assert int(both.d2t[other["<|endoftext|>"]]) == -1  # padding there, an ordinary marker here
    check(both)


def test_pitfall_21_two_drafters_with_one_tokenizer(families):
    """Nothing is remembered per tokenizer: the width of each model counts."""
    tokenizer, target = families.tokenizer("spm_bpe"), families.vocabulary("byte_bpe")
    wide, narrow = (ByteVocabulary.from_tokenizer(tokenizer, width) for width in (len(tokenizer), 400))
    assert Intersection.between(target, wide).d2t.shape != Intersection.between(target, narrow).d2t.shape
    check(Intersection.between(target, narrow))
    check(Intersection.between(families.vocabulary("byte_bpe", padding=9), wide))


def test_pitfall_29_ids_of_one_side_are_refused_on_the_other(families):
    both = families.pair("byte_bpe", "spm_bpe")
    theirs = DrafterIds.of(both.drafter_ids[:5], both.drafter)
    assert torch.equal(both.to_target(theirs).plain(both.target), both.target_ids[:5])
    assert torch.equal(both.to_drafter(both.to_target(theirs)).tensor, both.drafter_ids[:5])
    with pytest.raises(WrongVocabulary, match="another's were meant"):
        theirs.plain(both.target)
    with pytest.raises(WrongVocabulary, match="another's were meant"):
        both.to_target(TargetIds.of(both.target_ids[:5], both.target))
    with pytest.raises(WrongVocabulary, match="outside its vocabulary"):
        TargetIds.of(torch.tensor([both.target.width]), both.target)
    with pytest.raises(WrongVocabulary, match="dtype"):
        TargetIds.of(torch.tensor([1.0]), both.target)
    unmapped = int((both.d2t < 0).nonzero()[0])
    assert both.to_target(DrafterIds.of(torch.tensor([unmapped]), both.drafter)).tensor.tolist() == [-1]
    assert both.to_target(DrafterIds.of(torch.tensor([[-1]]), both.drafter, padding=-1)).tensor.tolist() == [[-1]]


def test_ids_of_two_loads_of_one_tokenizer_are_the_same(families):
    again = ByteVocabulary.from_tokenizer(families.tokenizer("byte_bpe"))
    ids = TargetIds.of(torch.tensor([3, 4]), families.vocabulary("byte_bpe"))
    assert ids.plain(again).tolist() == [3, 4]
    assert dataclasses.is_dataclass(ids)
