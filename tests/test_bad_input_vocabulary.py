"""Pairs of vocabularies that cannot work: each is refused before anything runs, in a sentence that names a method that would."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anydraft import Speculator
from anydraft.core.errors import AnydraftError, BadModel, BadOption, WrongVocabulary

FOREIGN = ("tli", "slem", "union", "tli_slem", "rdk")


def model(width):
    torch.manual_seed(width)
    config = LlamaConfig(
        vocab_size=width, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=128,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def words(*texts):
    made = Tokenizer(WordLevel({"[UNK]": 0} | {text: n for n, text in enumerate(texts, 1)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def all_bytes():
    made = Tokenizer(BPE(vocab={c: n for n, c in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=made)


class Hashing:
    """Ids are hashes of words: many texts share one, and none can be read back."""

    def get_vocab(self):
        return {f"bucket{n}": n for n in range(257)}

    def encode(self, text, **options):
        return [sum(map(ord, word)) % 257 for word in text.split()]

    def __call__(self, text, **options):
        return type("Encoding", (), {"input_ids": self.encode(text)})()

    def decode(self, ids, **options):
        return "?" * len(ids)


@pytest.fixture(scope="module")
def target():
    return model(256), all_bytes()


def refused(kind, *arguments, **options):
    with pytest.raises(kind) as caught:
        Speculator(*arguments, **options)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::anydraft.vocabulary.bytes.LossyTokenizerWarning")
@pytest.mark.parametrize("method", ["tli", "tli_slem", "rdk", "fr_spec"])
def test_nothing_in_common(method):
    here, there = words("hello", "world"), words("bonjour", "monde")
    options = {"statistics": torch.ones(3)} if method == "fr_spec" else {}
    said = refused(WrongVocabulary, model(3), here, model(3), there, method, **options)
    assert "no token in common" in said and "method='slem'" in said
    want = Speculator(model(3), here, method="none").generate([1, 2], max_new_tokens=5).token_ids
    for works in ("slem", "union", "auto"):
        assert Speculator(model(3), here, model(3), there, works, 2).generate([1, 2], max_new_tokens=5).token_ids == want


@pytest.mark.parametrize("method", FOREIGN)
@pytest.mark.parametrize("side", ["target", "drafter"])
def test_a_tokenizer_that_is_another_models(target, method, side):
    pair = [model(9000), all_bytes(), *target] if side == "target" else [*target, model(9000), all_bytes()]
    said = refused(WrongVocabulary, *pair, method)
    assert f"the {side}'s tokenizer does not go with its model" in said and "9000" in said and "256" in said and "method='prompt_lookup'" in said


@pytest.mark.parametrize("method", FOREIGN)
def test_a_tokenizer_with_far_more_ids_than_its_model(target, method):
    said = refused(WrongVocabulary, *target, model(60), all_bytes(), method)
    assert "does not go with its model" in said and "196 ids beyond" in said


@pytest.mark.parametrize("method", FOREIGN)
@pytest.mark.parametrize("side", ["target", "drafter"])
def test_a_tokenizer_that_cannot_be_turned_into_bytes(target, method, side):
    odd = (model(257), Hashing())
    pair = [*odd, *target] if side == "target" else [*target, *odd]
    said = refused(WrongVocabulary, *pair, method)
    assert "cannot be turned into bytes" in said and "method='prompt_lookup'" in said
    assert Speculator(*pair[:2], method="prompt_lookup").generate([1, 2, 1, 2, 1], max_new_tokens=4).token_ids


@pytest.mark.parametrize("method", FOREIGN)
def test_a_drafter_without_its_tokenizer(target, method):
    said = refused(BadModel, *target, model(300), None, method)
    assert "the drafter's tokenizer is missing" in said and "assistant_tokenizer" in said and "method='draft_model'" in said


@pytest.mark.parametrize("method", FOREIGN)
def test_a_target_without_its_tokenizer(target, method):
    said = refused(BadModel, target[0], None, model(256), all_bytes(), method)
    assert "the target's tokenizer is missing" in said and "method='prompt_lookup'" in said


@pytest.mark.parametrize("method", FOREIGN)
def test_something_that_is_no_tokenizer(target, method):
    said = refused(BadModel, *target, model(256), object(), method)
    assert "not a tokenizer whose vocabulary can be read" in said and "method='slem'" in said


def test_a_method_that_needs_the_targets_own_vocabulary(target):
    said = refused(WrongVocabulary, *target, model(3), words("hello", "world"), "draft_model")
    assert "method='tli'" in said and "method='slem'" in said


@pytest.mark.parametrize("method", ["tli", "union", "tli_slem", "rdk"])
def test_text_alone_has_no_laws(target, method):
    said = refused(AnydraftError, *target, lambda text, tokens: text, None, method)
    assert "text only" in said and "method='slem'" in said


def test_statistics_that_were_never_measured(target, tmp_path):
    for method, options in (("fr_spec", {}), ("rdk", {"keep_share": 0.5})):
        assert "anydraft calibrate" in refused(BadOption, *target, *target, method, **options)
        assert "anydraft calibrate" in refused(BadModel, *target, *target, method, statistics=str(tmp_path / "none"), **options)
    (tmp_path / "torn").write_bytes(b"\x10")
    assert "cannot be read" in refused(BadModel, *target, *target, "fr_spec", statistics=str(tmp_path / "torn"))
