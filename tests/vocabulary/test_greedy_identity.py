"""Every method, every ordered pair of six kinds of real tokenizers: greedy output is plain decoding's, token by token.

The models are tiny and know the corpus by heart, half-way: drafts are sometimes right, sometimes wrong, sometimes no text at all. Float64 leaves no
ties. In every second pair one side or both are wider than their tokenizer, and a wide target really says ids that have no text.
"""

import warnings
from itertools import permutations

import pytest
import tiny_models
import torch

from anydraft import Speculator
from anydraft.core.errors import BadOption
from anydraft.pairing import Pair

FAMILIES = ("byte_bpe", "spm_bpe", "unigram", "wordpiece", "byte_characters", "nfkc")
PAIRS = list(permutations(FAMILIES, 2))
METHODS = ("tli", "slem", "union", "tli_slem", "rdk", "fr_spec", "slrs", "auto")
PADDING = ((0, 0), (9, 0), (0, 9), (9, 4))
PROMPTS = ["class Reader:\n    def", "The reader reads", "Привет, мир! Это неб"]
TOKENS = 10


class Zoo:
    """Models by family and padding, made at first use."""

    def __init__(self, families, corpus):
        self.families, self.corpus, self.made, self.said = families, corpus, {}, {}

    def model(self, name, padding):
        if (name, 0) not in self.made:
            self.made[name, 0] = tiny_models.learnt(self.families.tokenizer(name), self.corpus[:2])
        if (name, padding) not in self.made:
            common = dict.fromkeys(self.families.tokenizer(name)(self.corpus[1], add_special_tokens=False).input_ids)
            self.made[name, padding] = tiny_models.padded(self.made[name, 0], list(common)[2 : 2 + padding])
        return self.made[name, padding]

    def plain(self, name, padding):
        """What the target says alone, one prompt at a time."""
        if (name, padding) not in self.said:
            s = Speculator(self.model(name, padding), self.families.tokenizer(name), method="none")
            self.said[name, padding] = [s.generate(p, max_new_tokens=TOKENS).token_ids for p in PROMPTS]
        return self.said[name, padding]


@pytest.fixture(scope="module")
def models(families, corpus):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Zoo(families, corpus)


def options_of(method, width):
    if method != "fr_spec":
        return {}
    return {"statistics": torch.arange(width, 0.0, -1), "keep_share": 0.6}


@pytest.mark.parametrize("number, pair", list(enumerate(PAIRS)), ids=["-".join(pair) for pair in PAIRS])
def test_greedy_identity(models, monkeypatch, number, pair):
    (target, drafter), (wide, wider) = pair, PADDING[number % len(PADDING)]
    big, small = models.model(target, wide), models.model(drafter, wider)
    t, d = models.families.tokenizer(target), models.families.tokenizer(drafter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = Pair(t, big.config.vocab_size, d, small.config.vocab_size)
        assert held.aligner.intersection.size  # read once for all methods: only the maps are shared, and they hold no state
    monkeypatch.setattr("anydraft.pairing.Pair", lambda *sizes: held)
    want = models.plain(target, wide)
    for method in METHODS:
        try:
            s = Speculator(big, t, small, d, method, 3, max_batch_size=2, control="fixed", **options_of(method, big.config.vocab_size))
        except BadOption as error:
            assert method == "slrs" and drafter != "byte_characters" and "too many ways" in str(error), method
            continue
        made = s.generate(PROMPTS, max_new_tokens=TOKENS)  # two at a time: the third takes the place of whichever ends first
        assert [g.token_ids for g in made] == want, method
        if number % 5 == 0:
            assert s.generate(PROMPTS[number % 3], max_new_tokens=TOKENS).token_ids == want[number % 3], method


def test_wide_targets_say_ids_without_text(models):
    """Else the pairs above would not show that such ids are survived."""
    said = [id for name in FAMILIES for row in models.plain(name, 9) for id in row if id >= len(models.families.tokenizer(name))]
    assert said


def test_drafts_were_accepted(models, families):
    """An identity of methods that never speculate would show nothing."""
    s = Speculator(models.model("nfkc", 0), families.tokenizer("nfkc"), models.model("byte_bpe", 0), families.tokenizer("byte_bpe"), "slem", 3)
    assert s.generate(PROMPTS[0], max_new_tokens=TOKENS).metrics.num_accepted_draft_tokens
