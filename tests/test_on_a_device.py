"""Every drafting method where the target, the drafter or both are on another device: the tokens are those of the host alone.

The device is pretended (pretended_device.py), so this runs on every machine. Device and host compute the same numbers here, so any other token is a
mistake of ours, sampled or not.
"""

import contextlib
import warnings
from collections import Counter

import pytest
import tiny_models
import torch
from pretended_device import DEVICE, moved, pretended
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from anydraft import Speculator, zoo
from anydraft.control.disco import FEATURES
from anydraft.core import discover
from anydraft.core.costs import Costs
from anydraft.core.trained import Trained
from anydraft.drafters import rdk
from anydraft.parallel import threads

TEXT = "class Reader:\n    def read(self, path):\n        with open(path) as lines:\n            return [line.strip() for line in lines if line]\n"
PROMPTS = ["class Reader:\n    def", "with open(path) as lines:\n            return [line", "de"]
TOKENS = 6
PLACES = {"both there": (True, True), "target there": (True, False), "drafter there": (False, True)}


class Models:
    """The target, a drafter with its tokenizer and one that reads bytes: on the host, and on the device."""

    def __init__(self):
        t, b = PreTrainedTokenizerFast.from_pretrained(zoo.path("target")), reads_bytes()
        self.tokenizer, self.bytes = t, b
        here = [tiny_models.learnt(one, [TEXT] * 2, seed) for seed, one in enumerate((t, t, b))]
        with pretended():
            self.held = {False: here, True: [moved(model) for model in here]}
        self.said = {}

    def speculator(self, name, target_there=False, drafter_there=False, **options):
        """One for a method, or for a name of `OTHERS`."""
        (target, *_), (_, same, other) = self.held[target_there], self.held[drafter_there]
        method, drafters, settings = ASKED.get(name, (name, "other", {}))
        drafter, its = {"none": (None, None), "same": (same, None), "other": (other, self.bytes)}.get(drafters, (None, None))
        if drafters == "several":
            drafter, its = [same, other, "prompt_lookup"], [None, self.bytes, None]
        return Speculator(target, self.tokenizer, drafter, its, method, **{"num_assistant_tokens": 3, "control": "fixed", **settings, **options})

    def on_the_host(self, name, **options):
        key = name, *options.items()
        if key not in self.said:
            self.said[key] = generated(self.speculator(name), **options)
        return self.said[key]


def reads_bytes():
    made = Tokenizer(BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def generated(speculator, prompts=PROMPTS[0], tokens=TOKENS, **options):
    """(tokens, how many of them were drafted) of each prompt."""
    made = speculator.generate(prompts, max_new_tokens=tokens, **options)
    return [(g.token_ids, g.metrics.num_accepted_draft_tokens) for g in (made if isinstance(made, list) else [made])]


MEAN = {"statistics": torch.arange(4096.0, 0.0, -1)}  # of the bundled tokenizer's width
ASKED = {  # how a method is asked for that is not simply given the drafter that reads bytes: (method, drafter, settings)
    "none": ("none", "none", {}),
    "prompt_lookup": ("prompt_lookup", "none", {}),
    "token_recycling": ("token_recycling", "none", {"num_assistant_tokens": 8}),
    "draft_model": ("draft_model", "same", {}),
    "fr_spec": ("fr_spec", "other", {**MEAN, "keep_share": 0.6}),
    "rdk": ("rdk", "other", {**MEAN, "mixing_weight": 0.5}),
    "slrs": ("slrs", "other", {"rule": "slrs"}),
    "first_rounds": ("auto", "other", {}),
    "several": ("auto", "several", {"control": "bandit"}),
}
OTHERS = {
    "a tree": ("draft_model", "same", {"branching": (2, 1), "num_assistant_tokens": 6}),
    "a tree of independent draws": ("draft_model", "same", {"branching": (2, 1), "num_assistant_tokens": 6, "sibling_kind": "independent"}),
    "block_verification": ("draft_model", "same", {"rule": "block_verification"}),
    "match": ("tli", "other", {"rule": "match"}),
}
ASKED |= OTHERS
METHODS = discover.names("drafters")
SAMPLED = {"temperature": 1.0, "seed": 5}
GREEDY = {"temperature": 0.0, "seed": 5}  # a draft may be drawn where the target is greedy
UNTRAINED = {  # what a file for these controls holds, by its shapes; the drafter is 24 wide
    "disco": {"in.weight": torch.ones(8, FEATURES), "in.bias": torch.zeros(8), "out.weight": torch.ones(1, 8), "out.bias": torch.zeros(1)},
    "specdec_plus_plus": {"block0.weight": torch.ones(24, 24), "block0.bias": torch.zeros(24), "out.weight": torch.ones(2, 24), "out.bias": torch.zeros(2)},
}
CHEAP = Costs(draft=0.05, verify=((1, 1.0), (17, 1.3)))


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture
def device():
    with pretended() as held:
        yield held


# -- the pretended device --------------------------------------------------------------------------------------------


def test_it_refuses_what_a_device_refuses(device):
    there, here = torch.arange(6).to(DEVICE), torch.arange(6)
    for mixed in (lambda: there + here, lambda: here.add_(there), lambda: here[there], lambda: torch.cat([here, there]), lambda: here[0].add_(there[0])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there + here[2]).tolist() == [2, 3, 4, 5, 6, 7] and there[here[1:3]].tolist() == there[[1, 2]].tolist() == [1, 2]
    assert all(one.device == DEVICE for one in (there[1:], torch.zeros(2, device="cuda"), torch.tensor([1], device=DEVICE), torch.zeros_like(there), there > 2))
    assert there.add_(1) is there and here.device.type == there.cpu().device.type == "cpu" and there.tolist() == [1, 2, 3, 4, 5, 6]


def test_it_leaves_nothing_behind():
    def patched():
        return torch.accelerator.synchronize, torch.cuda.Stream, torch.cuda.CUDAGraph, threads._own_stream, torch._C._only_lift_cpu_tensors()

    before = patched()
    with pretended() as device:
        made = torch.ones(2, device=DEVICE)
    assert patched() == before
    assert type(torch.zeros(2)) is torch.Tensor and made.tolist() == [1.0, 1.0] and not device.waits
    if not torch.cuda.is_available():
        with pytest.raises(Exception, match="CUDA"):
            torch.zeros(2, device="cuda")


# -- the same tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method(models, device, name, options, place):
    assert generated(models.speculator(name, *PLACES[place]), **options) == models.on_the_host(name, **options)


@pytest.mark.parametrize("place", ["both there", "drafter there"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_shapes_and_rules(models, device, name, place):
    assert generated(models.speculator(name, *PLACES[place]), **SAMPLED) == models.on_the_host(name, **SAMPLED)


@pytest.mark.parametrize("place", PLACES)
def test_a_law_that_is_learnt_on_the_way(models, device, place, monkeypatch):
    monkeypatch.setattr(rdk, "ENOUGH", 2)
    want = generated(models.speculator("rdk", statistics=None, mixing_weight=None), **SAMPLED)
    assert generated(models.speculator("rdk", *PLACES[place], statistics=None, mixing_weight=None), **SAMPLED) == want


@pytest.mark.filterwarnings("ignore:the .* file was trained for another")
@pytest.mark.parametrize("name", discover.names("control"))
def test_every_control(models, device, name, tmp_path):
    """Greedy: a control may plan by the costs of the device, and only a sampled text may tell."""
    settings = {"num_assistant_tokens": "auto"} if name == "auto" else {}
    if name in UNTRAINED:
        Trained(name, "of nobody", 0.0, UNTRAINED[name], {"threshold": 0.5, "most": 3}).save(tmp_path / "control.safetensors")
        settings = {"weights": tmp_path / "control.safetensors", "force": True}
    if name == "oracle":
        settings = {"agreement": {tuple(models.tokenizer(PROMPTS[0]).input_ids): [True, True, False] * 6}}
    (made,) = generated(models.speculator("draft_model", True, True, control=name, **settings), tokens=16, **GREEDY)
    assert made[0] == models.on_the_host("none", tokens=16, **GREEDY)[0][0]


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["draft_model", "first_rounds", "several"])
def test_auto_where_drafting_pays(models, device, name, options):
    def told(*place):
        made = models.speculator(name, *place, control="auto", num_assistant_tokens="auto")
        for assistant in made.assistants:
            assistant.pace.known = CHEAP
        return generated(made, tokens=10, **options)

    want = told()
    assert told(True, True) == told(True, False) == want and want[0][1]


@pytest.mark.parametrize("name, place", [*((name, "both there") for name in ("none", "draft_model", "a tree", "tli", "token_recycling", "several")),
                                         ("tli", "target there"), ("tli", "drafter there")])  # fmt: skip
def test_rows_of_several_lengths(models, device, name, place):
    """Two at a time: the third takes the place of whichever ends first."""
    options = {"temperature": 0.8, "seed": [1, 2, 3]}
    want = generated(models.speculator(name, max_batch_size=2), PROMPTS, **options)
    assert generated(models.speculator(name, *PLACES[place], max_batch_size=2), PROMPTS, **options) == want


@pytest.mark.parametrize("name", ["none", "tli", "a tree"])
def test_every_option_of_a_request(models, device, name):
    options = {
        "temperature": 0.8, "seed": 3, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "presence_penalty": 0.2,
        "frequency_penalty": 0.1, "logit_bias": {5: 1.0, 7: float("-inf")}, "suppress_tokens": [9], "min_new_tokens": 3, "forced_tokens": [4],
        "stop_token_ids": [0], "stop_strings": "return return", "logprobs": 2,
    }  # fmt: skip
    here, there = (models.speculator(name, *where).generate(PROMPTS[0], max_new_tokens=TOKENS, **options) for where in ((), (True, True)))
    assert there.token_ids == here.token_ids and there.logprobs == here.logprobs


@pytest.mark.parametrize("schedule", ["dsi", "pearl"])
@pytest.mark.parametrize("name", ["draft_model", "tli", "prompt_lookup"])
def test_on_threads(models, device, name, schedule):
    parallel = models.speculator(name, True, True, schedule=schedule, num_assistant_tokens=2)
    with contextlib.closing(parallel), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the drafter is slower than the target, or wants more replicas: it is no smaller here
        assert generated(parallel, **GREEDY)[0][0] == models.on_the_host("none", **GREEDY)[0][0]
        assert not parallel.schedule.report()["failures"]


def test_forwards_are_graphs(models, device):
    """Real captures, of which each replay does again what was captured: no shape was refused, and the tokens are the host's."""
    target, same, _ = map(moved, models.held[False])  # whoever asked for hidden states left transformers' hooks on a model, and those are called
    speculator = Speculator(target, models.tokenizer, same, None, "draft_model", 3, control="fixed")
    made = [generated(speculator, tokens=24, **GREEDY) for _ in range(2)]
    assert made[0] == made[1] == models.on_the_host("draft_model", tokens=24, **GREEDY)
    for engine in (speculator.target, speculator.assistants[0].part):
        assert engine._recorder._graphs and not engine._recorder._refused


# -- what the host waits for -----------------------------------------------------------------------------------------

PER_STEP = {("none", 0): (1, 0), ("draft_model", 1): (3, 1), ("draft_model", 4): (4, 1), ("a tree", 6): (5, 6), ("tli", 3): (6, 2)}
"""How often a step waits for the device, and sends to it and waits, by method and num_assistant_tokens, as it is today.

Each is a copy that needs everything asked before it to be done: the device then stands idle until the host has asked for more, which on a fast GPU
costs about as much as several small kernels. Every step waits for its verdict. One with a draft also waits for the drafted nodes (for the metrics), and
target and drafter each wait to see which nodes of their trees were accepted, the drafter only if it was fed what it drafted. A tree's shape is fetched
once more, and a drafter of another vocabulary hears twice what it drafted, and is sent its maps once a text. Neither the length of a chain nor the
number of rows adds anything. A number that must grow here makes every step on every GPU slower; one that falls is to be lowered here.
"""


@pytest.mark.parametrize("prompts, options", [(PROMPTS[:1], GREEDY), (PROMPTS, SAMPLED)], ids=["one row, greedy", "three rows, sampled"])
@pytest.mark.parametrize("name, k", PER_STEP)
def test_how_often_a_step_waits(models, device, name, k, prompts, options):
    speculator = models.speculator(name, True, True, num_assistant_tokens=k)
    device.waits.clear(), device.sent.clear()
    made = speculator.generate(prompts, max_new_tokens=16, **options)
    steps = max(len(g.metrics.per_step_drafted) for g in made)
    waits, sent = PER_STEP[name, k]
    seen = Counter({where: n for where, n in device.waits.items() if not where.startswith("engine/cuda_graphs.py")})  # comparing is once a shape
    assert steps <= seen.total() <= waits * steps, seen
    assert device.sent.total() <= sent * steps, device.sent
