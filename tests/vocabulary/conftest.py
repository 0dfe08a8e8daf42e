"""Real tokenizers of every family, trained here on a few kilobytes, saved and loaded again."""

import json
import string
import warnings
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from anydraft import zoo
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection

CODE = (
    "class Reader:\n    def __init__(self, path, limit=1024):\n        self.path = path\n        self.limit = limit\n\n"
    "    def read(self):\n        with open(self.path) as lines:\n            return [line.strip() for line in lines if line]\n\n\n"
    "def total(values):\n\tresult = 0\n\tfor value in values:\n\t\tresult += value  # it's a sum, isn't it?\n\treturn result\n"
)
PROSE = (
    "The reader reads what the writer has written, and we don't know whether it's true. Reading 12345 lines took 3.14 seconds; "
    "the other 678 took longer, hello world, hello there. Naïve cafés serve “crème brûlée” — for 25 €.\n"
    "Привет, мир! Это небольшой текст для проверки. 你好,世界。这是一个测试。 日本語のテキスト。 한국어 텍스트입니다. "
    "नमस्ते दुनिया। שלום עולם. مرحبا بالعالم. emoji 👍🏽 👩‍👩‍👧 🇩🇪 and marks e\u0301 a\u030a.\n"
)
CORPUS = [CODE, PROSE, CODE.replace("value", "number"), PROSE.lower(), string.printable]
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_bpe(size=700, normalizer=None, prefix=False, special="<|endoftext|>"):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=[special], initial_alphabet=alphabet, show_progress=False)
    )
    return made, {"eos_token": special, "bos_token": special}


def byte_characters():
    return byte_bpe(size=257)


def tiktoken_like():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CL100K), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=650, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("        ", normalized=False)])
    made.add_special_tokens(["<|endoftext|>"])
    return made, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def spm_bpe(metaspace=False):
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always", split=False)])
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
        )
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["<unk>", "<s>", "</s>", *BYTE_PIECES], show_progress=False)
    short = [text[at : at + 60] for text in CORPUS for at in range(0, len(text), 60)]  # without pre-tokenizer a text is one word
    made.train_from_iterator(short, trainer)
    return _llama_like(made)


def unigram():
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    vocab = [tuple(entry) for entry in json.loads(made.to_str())["model"]["vocab"]]
    vocab = vocab[:3] + [(piece, -12.0) for piece in BYTE_PIECES] + vocab[3:]
    made = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _llama_like(made)


def _llama_like(made):
    state = json.loads(made.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(state))
    begin = made.token_to_id("<s>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)])
    return made, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def wordpiece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=600, special_tokens=names, show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names))
    return made, roles | {"eos_token": "[SEP]"}


def words():
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "hello": 2, "world": 3, "there": 4, ",": 5}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made, {"unk_token": "[UNK]", "eos_token": "</s>"}


def suffixed():
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made, {"unk_token": "<unk>"}


MAKERS = {
    "byte_bpe": byte_bpe,
    "tiktoken_like": tiktoken_like,
    "byte_characters": byte_characters,
    "roberta_like": lambda: byte_bpe(size=500, prefix=True, special="</s>"),
    "spm_bpe": spm_bpe,
    "spm_metaspace": lambda: spm_bpe(metaspace=True),
    "unigram": unigram,
    "wordpiece": wordpiece,
    "nfkc": lambda: byte_bpe(size=500, normalizer=normalizers.NFKC()),
    "lower_case": lambda: byte_bpe(size=500, normalizer=normalizers.Lowercase()),
    "words": words,
    "suffixed": suffixed,
}
FAITHFUL = ("byte_bpe", "tiktoken_like", "byte_characters", "roberta_like", "spm_bpe", "spm_metaspace", "unigram", "target", "draft-spm")
LOSSY = ("wordpiece", "nfkc", "lower_case", "words", "suffixed")


class Families:
    """Tokenizers and vocabularies by name, made at first use."""

    def __init__(self, folder: Path):
        self.folder, self._tokenizers, self._vocabularies, self._pairs = folder, {}, {}, {}

    def tokenizer(self, name):
        if name not in self._tokenizers:
            if name in MAKERS:
                made, roles = MAKERS[name]()
                path = self.folder / name
                PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **roles).save_pretrained(path)
                self._tokenizers[name] = PreTrainedTokenizerFast.from_pretrained(path)
            else:
                self._tokenizers[name] = PreTrainedTokenizerFast.from_pretrained(zoo.path(name))
        return self._tokenizers[name]

    def vocabulary(self, name, padding=0):
        key = name, padding
        if key not in self._vocabularies:
            tokenizer = self.tokenizer(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._vocabularies[key] = ByteVocabulary.from_tokenizer(tokenizer, len(tokenizer) + padding)
        return self._vocabularies[key]

    def pair(self, target, drafter):
        if (target, drafter) not in self._pairs:
            self._pairs[target, drafter] = Intersection.between(self.vocabulary(target), self.vocabulary(drafter))
        return self._pairs[target, drafter]


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    return Families(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def corpus():
    return CORPUS


class Named:
    """One family by name, for parametrised fixtures."""

    def __init__(self, name, families):
        self.name, self.tokenizer, self.vocabulary = name, families.tokenizer(name), families.vocabulary(name)


@pytest.fixture(scope="session", params=FAITHFUL)
def faithful(request, families):
    return Named(request.param, families)


@pytest.fixture(scope="session", params=LOSSY)
def lossy(request, families):
    return Named(request.param, families)
