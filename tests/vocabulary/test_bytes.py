"""The byte table against the tokenizers themselves. Rows of the pitfall table are named in the tests."""

import copy
import json
import warnings

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from anydraft.core.errors import BadModel, WrongVocabulary
from anydraft.vocabulary import pieces
from anydraft.vocabulary.bytes import ByteVocabulary, LossyTokenizerWarning, same_vocabulary

PARTS = (
    "hello",
    " world",
    "  ",
    "\n",
    "\t",
    "it's",
    "don't",
    " 12345",
    "3.14",
    "!?",
    "<0x0A>",
    "</s>",
    "你好",
    "Привет",
    "👍🏽",
    "👩‍👩‍👧",
    "e\u0301",
    "é",
    "ﬁ",
    "€",
)
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\u2581")  # sentencepiece cannot tell its space sign from a space
TEXT = st.one_of(st.text(CHARACTERS, max_size=24), st.lists(st.sampled_from(PARTS), max_size=8).map("".join))


@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_bytes_of_the_encoded_text_are_the_text(faithful, text):
    made = faithful.vocabulary.encode(text.encode())
    assert faithful.vocabulary.text_of(made.ids) == text.encode()
    assert made.lost is None and (made.ends[-1] if made.ends else 0) == len(text.encode())


@given(text=TEXT)
@settings(max_examples=40, deadline=None)
def test_pitfall_05_a_leading_space_is_the_tokenizers_own_and_counted(faithful, text):
    text = text.replace("</s>", "").replace("<0x0A>", "")  # what the tokenizer itself makes of these is its own affair
    vocabulary = faithful.vocabulary
    data = vocabulary.text_of(faithful.tokenizer.encode(text, add_special_tokens=False))
    added = {"never": False, "always": text != "", "unless_present": text[:1] not in ("", " ")}[vocabulary.prefix_space]
    assert data == b" " * added + text.encode()


@given(ids=st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=40, deadline=None)
def test_pieces_add_up_to_the_decoders_own_text(faithful, ids):
    """Any id sequence, canonical or not: our bytes are the library's decoding, but for U+FFFD."""
    vocabulary, tokenizer = faithful.vocabulary, faithful.tokenizer
    texts = sorted(set(vocabulary.by_bytes.values()))
    ids = vocabulary.encode(b"x").ids + [texts[id % len(texts)] for id in ids]
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    shown = vocabulary.text_of(ids).decode("utf-8", "replace")
    if "\ufffd" not in shown:
        assert decoded in (shown, shown.removeprefix(" "))


@pytest.mark.parametrize("name", ["spm_bpe", "unigram", "spm_metaspace"])
def test_pitfall_05_a_lone_piece_read_by_the_decoder_is_caught(families, monkeypatch, name):
    def lone(decode, suffixed):
        return lambda piece: decode([piece]).encode()

    monkeypatch.setattr(pieces, "through_decoder", lone)
    with pytest.raises(WrongVocabulary, match="cannot be turned into bytes"):
        ByteVocabulary.from_tokenizer(families.tokenizer(name))


def test_pitfall_09_replacing_only_the_first_space_sign_is_caught(families, monkeypatch):
    """The usual shortcut breaks indentation, and the self-check says so."""
    backend = tokenizers.Tokenizer.from_str(families.tokenizer("spm_bpe").backend_tokenizer.to_str())
    state = json.loads(backend.to_str())
    backend = tokenizers.Tokenizer.from_str(json.dumps(state | {"decoder": None}))  # nothing but our own reading to go by
    assert ByteVocabulary.from_tokenizer(backend).by_bytes == families.vocabulary("spm_bpe").by_bytes
    monkeypatch.setattr(pieces, "with_space_sign", lambda piece: piece.replace("▁", " ", 1).encode())
    with pytest.warns(LossyTokenizerWarning, match="cannot be turned|changes the text"):
        assert not ByteVocabulary.from_tokenizer(backend, strict=False).faithful


def test_pitfall_03_clean_up_rewrites_text_and_is_never_used(families):
    """With its clean-up on, the library's decode drops the space before punctuation; ours keeps every byte."""
    tokenizer = copy.deepcopy(families.tokenizer("unigram"))
    tokenizer.clean_up_tokenization_spaces = True
    vocabulary = ByteVocabulary.from_tokenizer(tokenizer)
    for text in ("a . b", "do n't , it 's !", "hello ?"):
        ids = vocabulary.encode(text.encode()).ids
        assert tokenizer.decode(ids) != text
        assert vocabulary.text_of(ids).decode() == text


class SlowSentencepiece(PreTrainedTokenizer):
    """The same pieces in a tokenizer written in Python, with the leading space and the decoding of the slow classes."""

    vocab_files_names = {}

    def __init__(self, model, vocab, **roles):
        self.piece_model, self.ids = model, vocab
        self.strings = {id: piece for piece, id in vocab.items()}
        super().__init__(**roles)

    @property
    def vocab_size(self):
        return len(self.ids)

    def get_vocab(self):
        return dict(self.ids)

    def _tokenize(self, text, **kwargs):
        return [token.value for token in self.piece_model.tokenize("▁" + text.replace(" ", "▁"))] if text else []

    def _convert_token_to_id(self, token):
        return self.ids[token]

    def _convert_id_to_token(self, index):
        return self.strings[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens).replace("▁", " ")  # keeps the first space, spells byte tokens as text: unlike the fast class


def test_pitfall_06_slow_and_fast_class_have_one_table(families):
    fast = families.tokenizer("spm_bpe")
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    slow = SlowSentencepiece(fast.backend_tokenizer.model, fast.get_vocab(), **roles)
    ours, other = families.vocabulary("spm_bpe"), ByteVocabulary.from_tokenizer(slow)
    assert slow.decode(slow.encode(" 👍", add_special_tokens=False)) != fast.decode(fast.encode(" 👍", add_special_tokens=False))
    assert same_vocabulary(ours, other) and ours.by_bytes == other.by_bytes and ours.roles == other.roles
    for text in ("hello world", " hello", "  x\n\ty", "don't 👍🏽 é"):
        assert other.encode(text.encode()).ids == ours.encode(text.encode()).ids


def test_pitfall_08_byte_pieces_are_bytes_only_where_the_model_falls_back(families):
    for name in ("spm_bpe", "spm_metaspace", "unigram"):
        vocabulary, vocab = families.vocabulary(name), families.tokenizer(name).get_vocab()
        assert all(vocabulary.bytes_of(vocab[f"<0x{byte:02X}>"]) == bytes([byte]) for byte in range(256))
        literal = vocabulary.encode(b"<0x0A>").ids  # text that looks like a byte piece stays text
        assert vocab["<0x0A>"] not in literal and vocabulary.text_of(literal) == b"<0x0A>"
    plain = tokenizers.Tokenizer(models.WordLevel({"<0x0A>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    plain.decoder = decoders.Fuse()
    assert ByteVocabulary.from_tokenizer(plain).bytes_of(0) == b"<0x0A>"


def test_pitfall_08_unigram_itself_takes_the_literal_for_the_byte(families):
    """The trap is real: the library's own Unigram reads the six characters as a line break."""
    tokenizer = families.tokenizer("unigram")
    assert tokenizer.get_vocab()["<0x0A>"] in tokenizer.encode("a<0x0A>b", add_special_tokens=False)


@pytest.mark.parametrize("name", ["spm_bpe", "unigram", "draft-spm"])
def test_pitfall_10_the_canonical_id_is_the_encoders_choice(families, name):
    vocabulary, vocab = families.vocabulary(name), families.tokenizer(name).get_vocab()
    for byte, piece in ((b"a", "a"), (b" ", "▁"), (b"0", "0")):
        assert piece in vocab and vocabulary.bytes_of(vocab[piece]) == vocabulary.bytes_of(vocab[f"<0x{byte[0]:02X}>"]) == byte
        assert vocabulary.canonical_id(byte) == vocab[piece]
    for id in range(0, vocabulary.width, 7):
        if (data := vocabulary.bytes_of(id)) is not None:
            assert vocabulary.bytes_of(vocabulary.canonical_id(data)) == data


@pytest.mark.parametrize("width", [20, 500, 650, 655, 700])
def test_pitfall_11_and_12_every_width_around_the_tokenizers_size(families, width):
    """Padded logits, fewer logits than tokens, added tokens past the base vocabulary: tables are as wide as the logits."""
    tokenizer = families.tokenizer("tiktoken_like")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocabulary = ByteVocabulary.from_tokenizer(tokenizer, width)
    assert vocabulary.width == len(vocabulary.table) == width
    assert all(id < width for id in [*vocabulary.by_bytes.values(), *vocabulary.roles])
    for id in range(len(tokenizer), width):
        assert vocabulary.bytes_of(id) is None and vocabulary.role_of(id) == "unused" and vocabulary.key(id) is None
    made = vocabulary.encode(b"def f(x): return 1 <think>        hello world")
    assert all(0 <= id < width for id in made.ids)
    if width >= 500:  # all 256 bytes are in: what lies beyond the width is spelled
        assert vocabulary.text_of(made.ids) == b"def f(x): return 1 <think>        hello world"
    with pytest.raises(WrongVocabulary, match="outside its vocabulary"):
        vocabulary.bytes_of(width)


def test_pitfall_12_gaps_in_the_ids(families):
    vocabulary = ByteVocabulary.from_tokenizer(_SparseRanks({b"a": 0, b"b": 5, b"ab": 9}, {"<end>": 12}), 16)
    assert [vocabulary.role_of(id) for id in (0, 3, 5, 12, 15)] == [None, "unused", None, "eos", "unused"]
    assert vocabulary.encode(b"abb").ids == [9, 5]


class _SparseRanks:
    """What remote-code tokenizers built on tiktoken expose."""

    def __init__(self, ranks, special):
        self.mergeable_ranks, self.special_tokens = ranks, special
        self.eod_id = next(iter(special.values()))

    def encode_ordinary(self, text):
        ids, data = [], text.encode()
        while data:
            size = next((n for n in range(len(data), 0, -1) if data[:n] in self.mergeable_ranks), 0)
            ids += [self.mergeable_ranks[data[:size]]] if size else []
            data = data[size or 1 :]
        return ids


def test_ranks_are_their_own_bytes(families):
    ours = families.vocabulary("byte_bpe")
    ranks = {data: id for id, data in enumerate(ours.table) if data}
    vocabulary = ByteVocabulary.from_tokenizer(_SparseRanks(ranks, {"<|endoftext|>": 0}), ours.width)
    assert same_vocabulary(ours, vocabulary) and vocabulary.is_byte_complete and vocabulary.faithful


def test_byte_tokenizer_written_in_python():
    vocabulary = ByteVocabulary.from_tokenizer(ByT5Tokenizer())
    assert vocabulary.is_byte_complete and vocabulary.faithful
    assert vocabulary.encode("é".encode()).ids == [0xC3 + 3, 0xA9 + 3] and vocabulary.role_of(1) == "eos"


@pytest.mark.parametrize("name", ["byte_bpe", "tiktoken_like", "byte_characters", "spm_bpe", "unigram", "target", "draft-spm"])
def test_byte_complete_vocabularies_spell_anything(families, name):
    vocabulary = families.vocabulary(name)
    assert vocabulary.is_byte_complete
    assert vocabulary.text_of(vocabulary.spell(bytes(range(0x80)) + "👍é".encode())) == bytes(range(0x80)) + "👍é".encode()
    cut = "👍".encode()[:2]
    assert vocabulary.text_of(vocabulary.encode(b"ab" + cut).ids) == b"ab" + cut  # bytes that are no text yet
    assert vocabulary.unfinished(vocabulary.encode(b"ab" + cut).ids) and not vocabulary.unfinished(vocabulary.encode("é".encode()).ids)


def test_pitfall_30_tokenizers_that_change_text_are_told(lossy):
    vocabulary = lossy.vocabulary
    assert vocabulary.self_check.passed and not vocabulary.faithful and vocabulary.self_check.failures
    with pytest.warns(LossyTokenizerWarning, match="changes the text"):
        ByteVocabulary.from_tokenizer(lossy.tokenizer)


def test_pitfall_30_nothing_is_said_of_faithful_ones(faithful):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ByteVocabulary.from_tokenizer(faithful.tokenizer).faithful


@pytest.mark.parametrize(
    "normalizer", [normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.StripAccents()], ids=str
)
def test_pitfall_30_every_folding_normalizer_is_found(families, normalizer):
    backend = tokenizers.Tokenizer.from_str(families.tokenizer("byte_bpe").backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizer]) if "Accents" in str(normalizer) else normalizer
    with pytest.warns(LossyTokenizerWarning):
        assert not ByteVocabulary.from_tokenizer(backend).faithful


def test_word_pieces_carry_the_space_before_a_word(families):
    vocabulary = families.vocabulary("wordpiece")
    vocab = families.tokenizer("wordpiece").get_vocab()
    assert vocabulary.bytes_of(vocab["the"]) == b" the"
    assert vocabulary.bytes_of(next(id for piece, id in vocab.items() if piece == "##s")) == b"s"
    assert not vocabulary.is_byte_complete


def test_roles_and_not_bytes_for_special_tokens(families):
    spm, shared = families.vocabulary("spm_bpe"), families.vocabulary("byte_bpe")
    assert [spm.role_of(id) for id in range(3)] == ["unk", "bos", "eos"] and spm.bytes_of(2) is None
    assert shared.role_of(0) == "eos" and shared.has_role(0, "bos") and shared.ids_of("eos") == (0,)
    assert spm.encode(b"</s>").ids != [2] and 2 not in spm.encode(b"a </s> b").ids


def test_whole_texts_begin_as_the_tokenizer_begins_them(families):
    spm, bert = families.vocabulary("spm_bpe"), families.vocabulary("wordpiece")
    assert spm.encode_whole("hello") == families.tokenizer("spm_bpe").encode("hello")
    assert spm.encode_whole("") == [1]
    ids = bert.encode_whole("hello")
    assert ids[0] == 2 and ids[-1] != 3  # [CLS] stays in front, [SEP] would end the text
    assert spm.text_of(spm.encode_whole("hello"), start=True) == b"hello"


def test_special_flag_does_not_hide_byte_pieces(families):
    """Byte pieces that were trained as special tokens are still what the model falls back to."""
    tokenizer = copy.deepcopy(families.tokenizer("spm_bpe"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<0x0A>", "<0xF0>"]})
    vocabulary = ByteVocabulary.from_tokenizer(tokenizer)
    assert vocabulary.bytes_of(tokenizer.convert_tokens_to_ids("<0xF0>")) == b"\xf0" and vocabulary.is_byte_complete


def test_the_users_tokenizer_is_left_alone(families):
    tokenizer = copy.deepcopy(families.tokenizer("spm_bpe"))
    tokenizer("a b", truncation=True, max_length=2)
    before = tokenizer.backend_tokenizer.to_str()
    vocabulary = ByteVocabulary.from_tokenizer(tokenizer)
    assert len(vocabulary.encode(b"one two three four five").ids) > 5  # the user's truncation is not ours
    assert tokenizer.backend_tokenizer.to_str() == before and '"max_length":2' in before


def test_pitfall_32_the_loaded_object_decides(families):
    tokenizer = copy.deepcopy(families.tokenizer("byte_bpe"))
    before = ByteVocabulary.from_tokenizer(tokenizer)
    tokenizer.add_tokens(["hello world"])
    after = ByteVocabulary.from_tokenizer(tokenizer)
    assert after.canonical_id(b"hello world") == before.width and not same_vocabulary(before, after)


def test_same_size_is_not_same_vocabulary(families):
    ours = families.vocabulary("byte_bpe")
    table = list(ours.table)
    table[10], table[11] = table[11], table[10]
    other = ByteVocabulary.from_table(table, {0: "eos"})
    assert other.width == ours.width and not same_vocabulary(ours, other)
    assert same_vocabulary(ours, families.vocabulary("byte_bpe", padding=60)) and ours.tag != families.vocabulary("spm_bpe").tag


class Stubborn(SlowSentencepiece):
    """Refuses what it does not know, and reads names of special tokens in any text."""

    def encode(self, text, add_special_tokens=True):
        return super().encode(text, add_special_tokens=add_special_tokens)


def test_special_names_in_text_are_text_for_every_class(families):
    fast = families.tokenizer("spm_bpe")
    stubborn = Stubborn(fast.backend_tokenizer.model, fast.get_vocab(), unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    vocabulary = ByteVocabulary.from_tokenizer(stubborn)
    assert 2 in stubborn.encode("a </s> b", add_special_tokens=False)  # the trap is real
    assert vocabulary.text_of(vocabulary.encode(b"a </s> b").ids) == b"a </s> b"


class Scrambled(SlowSentencepiece):
    """Pieces whose strings say nothing of the text."""

    def _tokenize(self, text, **kwargs):
        return [piece for character in text if (piece := f"#{character}!") in self.ids]

    def convert_tokens_to_string(self, tokens):
        return "".join(token[1] for token in tokens)


def test_what_cannot_be_turned_into_bytes_is_refused():
    scrambled = Scrambled(None, {f"#{character}!": id for id, character in enumerate("abcdefgh xyz")})
    with pytest.raises(WrongVocabulary, match="draft_model.*prompt_lookup"):
        ByteVocabulary.from_tokenizer(scrambled)
    with pytest.warns(LossyTokenizerWarning):
        assert not ByteVocabulary.from_tokenizer(scrambled, strict=False).self_check.passed
    with pytest.raises(BadModel, match="slem"):
        ByteVocabulary.from_tokenizer(object())


def test_backend_alone_is_a_tokenizer(families):
    backend = families.tokenizer("byte_bpe").backend_tokenizer
    assert ByteVocabulary.from_tokenizer(backend).by_bytes == families.vocabulary("byte_bpe").by_bytes
    assert isinstance(families.tokenizer("byte_bpe"), PreTrainedTokenizerFast)
