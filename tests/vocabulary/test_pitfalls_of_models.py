"""Rows of docs/pitfalls.md that need models: positions, caches, widths, dtypes, devices, and models that stay the user's."""

import warnings

import pytest
import tiny_models
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from anydraft import Speculator
from anydraft.core.records import Context, Request
from anydraft.drafters.tli import TLI
from anydraft.engine.transformers import TransformersModel
from anydraft.pairing import Pair
from anydraft.vocabulary.contexts import DrafterContexts

TOKENS = 10
PROMPT = "The reader reads what the writer has written, and we don't know"
LOSSY = pytest.mark.filterwarnings("ignore::anydraft.vocabulary.bytes.LossyTokenizerWarning")


class Models:
    def __init__(self, families, corpus):
        self.families, self.corpus, self.made = families, corpus, {}

    def __call__(self, name):
        if name not in self.made:
            self.made[name] = tiny_models.learnt(self.families.tokenizer(name), self.corpus[:2])
        return self.made[name], self.families.tokenizer(name)


@pytest.fixture(scope="module")
def models(families, corpus):
    return Models(families, corpus)


def absolute(tokenizer, positions=256):
    """A drafter with learnt absolute positions."""
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
    return GPT2LMHeadModel(config).to(torch.float64).eval()


def same_as_plain(target, drafter, methods=("tli", "slem", "tli_slem"), prompt=PROMPT, **options):
    want = Speculator(*target, method="none").generate(prompt, max_new_tokens=TOKENS).token_ids
    made = {method: Speculator(*target, *drafter, method, 3, control="fixed", **options).generate(prompt, max_new_tokens=TOKENS) for method in methods}
    assert all(g.token_ids == want for g in made.values()), {method: g.token_ids for method, g in made.items()}
    return made


# 2, 27: lengths and positions


@pytest.mark.parametrize("positions", ["rotary", "absolute"])
@pytest.mark.parametrize("target, drafter, longer", [("byte_bpe", "byte_characters", 1), ("byte_characters", "byte_bpe", -1), ("byte_bpe", "spm_bpe", 0)])
def test_pitfall_02_the_drafters_prompt_has_a_length_of_its_own(models, target, drafter, longer, positions):
    (big, t), (small, d) = models(target), models(drafter)
    lengths = [len(tokenizer(PROMPT, add_special_tokens=False).input_ids) for tokenizer in (t, d)]
    assert (lengths[1] > lengths[0]) - (lengths[1] < lengths[0]) == longer
    same_as_plain((big, t), (small if positions == "rotary" else absolute(d), d))


@pytest.mark.parametrize("method", ["tli", "slem", "tli_slem", "union", "rdk"])
def test_pitfall_27_a_drafter_with_a_short_context_stops_drafting(models, method):
    """Its context is full before the target's: no draft and no error, and what was drafted before stays right."""
    target, tokenizer = models("byte_bpe"), models("byte_characters")[1]
    small = absolute(tokenizer, positions=len(PROMPT) + 6)
    made = same_as_plain(target, (small, tokenizer), (method,))[method].metrics.per_step_drafted
    assert made[0] > 0 or method == "union"
    assert made[-1] == 0
    full = absolute(tokenizer, positions=len(PROMPT) - 8)
    assert not sum(same_as_plain(target, (full, tokenizer), (method,))[method].metrics.per_step_drafted)


# 13, 23: the drafter's context and its cache


class Watched:
    """A drafting model that compares every answer with a forward without any cache."""

    def __init__(self, model):
        self.inner, self.model, self.worst, self.seen = TransformersModel(model), model, 0.0, []
        self.vocab_size, self.max_length = self.inner.vocab_size, self.inner.max_length

    def next(self, context):
        logits = self.inner.next(context)
        for b in range(context.size):
            ids = context.row(b)
            self.seen.append(ids.tolist())
            with torch.inference_mode():
                self.worst = max(self.worst, float((self.model(ids[None]).logits[0, -1] - logits[b]).abs().max()))
        return logits

    def grow(self, tokens, parent):
        return self.inner.grow(tokens, parent)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("target, drafter", [("byte_bpe", "spm_bpe"), ("spm_bpe", "byte_characters"), ("unigram", "byte_bpe")])
def test_pitfall_13_and_23_after_unmapped_tokens_the_drafter_sees_the_text_and_no_stale_cache(models, target, drafter, direct):
    """The target says tokens that the drafter lacks, each of which is one to several ids there; rejected drafts stand in the cache behind them."""
    (_, t), (small, d) = models(target), models(drafter)
    aligner = Pair(t, len(t), d, len(d)).aligner
    watched, contexts = Watched(small), DrafterContexts(aligner, direct=direct)
    text = t("def total(values):\n\tresult = 0  # naïve 你好 12345 👍 hello there", add_special_tokens=False).input_ids
    unmapped = [id for id in text[4:] if int(aligner.intersection.t2d[id]) < 0]
    assert len(unmapped) > 2
    context = Context.start([Request(prompt=torch.tensor(text[:4]), max_new_tokens=len(text))])
    generator = torch.Generator().manual_seed(1)
    at = 4
    while True:
        own, room = contexts.follow(context)
        watched.next(own)
        assert watched.worst < 1e-9
        if int(room[0]):
            seen = aligner.drafter.text_of(watched.seen[-1])
            assert seen.removeprefix(b" ") == aligner.target.text_of(text[:at]).removeprefix(b" ")
            drafted = torch.randint(0, watched.vocab_size, (1, 3), generator=generator)  # mostly wrong, and one of them right
            right = aligner.drafter.encode(aligner.target.text_of(text[at : at + 1])).ids
            drafted[0, 0] = right[0] if right else drafted[0, 0]
            for n in range(3):
                watched.grow(drafted[:, n : n + 1], torch.tensor([[n - 1]]))
            contexts.drafted(0, drafted[0].tolist())
        if at == len(text):
            break
        new = text[at : at + 1 + at % 3]
        at += len(new)
        grown = context.extended([new])
        context = type(context)(**{name: getattr(grown, name) for name in ("ids", "length", "limit", "slot", "requests")},
                                committed=grown.length, step=grown.step + 1)  # fmt: skip


# 20, 21: whose models they are


@pytest.mark.parametrize("method", ["tli", "slem", "tli_slem", "union", "rdk", "fr_spec"])
def test_pitfall_20_the_drafter_is_the_users_own_afterwards(models, method):
    target, (small, d) = models("byte_bpe"), models("spm_bpe")
    options = {"statistics": torch.ones(len(target[1])), "keep_share": 0.5} if method == "fr_spec" else {}
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    parts = [(name, type(module), len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in small.named_modules()]
    probe = torch.tensor([d("hello there").input_ids])
    with torch.inference_mode():
        said = small(probe).logits
    Speculator(*target, small, d, method, 3, **options).generate(PROMPT, max_new_tokens=6, temperature=1.0, seed=3)
    with torch.inference_mode():
        assert torch.equal(small(probe).logits, said)
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items()) and before.keys() == small.state_dict().keys()
    assert parts == [(name, type(module), len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in small.named_modules()]


def test_pitfall_21_two_drafters_with_one_tokenizer_and_two_widths_of_one_target(models):
    """All four live at once, and each run uses its own maps, heads and caches."""
    (big, t), (small, d) = models("byte_bpe"), models("spm_bpe")
    wide = tiny_models.padded(big, t("The reader", add_special_tokens=False).input_ids)
    other, pruned = absolute(d), {"statistics": torch.arange(len(t), 0.0, -1), "keep_share": 0.3}
    wide_pruned = {"statistics": torch.arange(wide.config.vocab_size, 0.0, -1), "keep_share": 0.3}
    made = {
        "full": Speculator(big, t, small, d, "tli", 3), "pruned": Speculator(big, t, small, d, "fr_spec", 3, **pruned),
        "other": Speculator(big, t, other, d, "tli", 3), "wide": Speculator(wide, t, small, d, "tli", 3),
        "wide pruned": Speculator(wide, t, other, d, "fr_spec", 3, **wide_pruned),
    }  # fmt: skip
    want = {
        False: Speculator(big, t, method="none").generate(PROMPT, max_new_tokens=TOKENS).token_ids,
        True: Speculator(wide, t, method="none").generate(PROMPT, max_new_tokens=TOKENS).token_ids,
    }
    for name in [*made, *reversed(made)]:
        assert made[name].generate(PROMPT, max_new_tokens=TOKENS).token_ids == want["wide" in name], name


def test_two_tokenizers_of_one_size_are_told_apart(models, corpus):
    """Same width, same pieces, other ids: never taken for one vocabulary."""
    big, t = models("byte_bpe")
    import copy
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(t.backend_tokenizer.to_str())
    names = [name for name in sorted(state["model"]["vocab"], key=state["model"]["vocab"].get) if not name.startswith("<|")]
    a, b = names[300:302]
    vocab = state["model"]["vocab"]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|endoftext|>")
    assert len(swapped) == len(t)
    assert not Pair(t, len(t), swapped, len(t)).same
    assert Pair(t, len(t), copy.deepcopy(t), len(t)).same
    chosen = Speculator(big, t, copy.deepcopy(big), swapped, "auto", 3)
    assert "another vocabulary" in chosen.parts().reason
    assert chosen.generate(PROMPT, max_new_tokens=TOKENS).token_ids == Speculator(big, t, method="none").generate(PROMPT, max_new_tokens=TOKENS).token_ids


# 28, 32


@pytest.mark.parametrize("method", ["tli", "slem", "tli_slem", "union", "rdk"])
def test_pitfall_28_target_and_drafter_of_two_dtypes(models, method):
    import copy

    target, (small, d) = models("byte_bpe"), models("spm_bpe")
    half = copy.deepcopy(small).to(torch.bfloat16)
    same_as_plain(target, (half, d), (method,))
    sampled = Speculator(*target, half, d, method, 3).generate([PROMPT, "hello"], max_new_tokens=TOKENS, temperature=1.0, seed=5)
    assert all(len(g.token_ids) == TOKENS or g.finish_reason == "stop" for g in sampled)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="one device here")
@pytest.mark.parametrize("method", ["tli", "slem", "tli_slem", "union", "rdk"])
def test_pitfall_28_target_and_drafter_on_two_devices(models, method):
    import copy

    (big, t), (small, d) = models("byte_bpe"), models("spm_bpe")
    for target, drafter in ((copy.deepcopy(big).cuda(), small), (big, copy.deepcopy(small).cuda())):
        same_as_plain((target, t), (drafter, d), (method,))


def test_pitfall_32_maps_are_built_from_the_tokenizer_that_is_loaded(models, families):
    """The same drafter with a tokenizer of another revision: its maps follow, and the output does not change."""
    from tokenizers import AddedToken

    target, (small, d) = models("byte_bpe"), models("spm_bpe")
    import copy

    revised = copy.deepcopy(d)
    revised.add_tokens([AddedToken("reader", normalized=False)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = [Pair(target[1], len(target[1]), tokenizer, len(tokenizer)).aligner.intersection for tokenizer in (d, revised)]
    assert pairs[1].drafter.tag != pairs[0].drafter.tag
    same_as_plain(target, (small, revised), ("tli", "slem"))


def test_the_shared_head_is_a_copy_beside_the_model(models):
    target, (small, d) = models("byte_bpe"), models("spm_bpe")
    s = Speculator(*target, small, d, "tli", 3)
    drafter = s.parts().drafter
    assert isinstance(drafter, TLI) and drafter.shared.model.vocab_size < small.config.vocab_size
    assert small.get_output_embeddings().weight.shape[0] == small.config.vocab_size
