"""`verify` on tiny real models: lossless methods pass, planted mistakes fail, ties and changed models are told apart from faults."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from anydraft.cli.verify import CONTROLS, decodings, keeps_path, speculator
from anydraft.core.records import Request
from anydraft.speculator import Speculator
from anydraft.testing import planted
from anydraft.testing.reference import Reference
from anydraft.testing.ties import audit, noise, top_gap
from anydraft.testing.unchanged import fingerprint
from anydraft.testing.verify import Plan, Subject, sized, sufficient_window, unchanged, verify

QUICK = Plan(greedy_prompts=8, greedy_tokens=24, prefixes=2, window=3, effect=0.3, false_alarm=0.01, samples=320)
PROMPTS = [[n % 12 for n in range(i, i + 9 + i % 3)] for i in range(8)]


def tiny(seed, sharpness=14.0):
    """A Llama of 12 words whose laws are neither flat nor certain."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=96, eos_token_id=None, bos_token_id=None, pad_token_id=0, tie_word_embeddings=False)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness)
    return model


class Tiny:
    """What `cli.verify.speculator` needs of a pair."""

    ends = ()

    def __init__(self):
        self.target, self.drafter, self.tokenizer, self.drafter_tokenizer = tiny(0), tiny(0), None, None
        with torch.no_grad():  # a drafter that is often right and often wrong
            self.drafter.lm_head.weight.add_(torch.randn(12, 16, generator=torch.Generator().manual_seed(1)) * 0.35)


@pytest.fixture(scope="module")
def pair():
    return Tiny()


def subject(pair, method="draft_model", mistake=None, temperature=1.0, controls=False, **options):
    parts = {"method": method, "num_assistant_tokens": 3} | options
    own = speculator(pair, parts, planted.get(mistake) if mistake else None)
    control = CONTROLS if controls else {}
    return Subject(
        name=method,
        speculative=own,
        plain=Speculator(pair.target, method="none"),
        control={name: speculator(pair, parts, planted.get(plant)) for name, plant in control.items()},
        model=pair.target,
        request=Request(prompt=torch.tensor([1]), max_new_tokens=1, temperature=temperature),
        options={"temperature": temperature},
        prompts=PROMPTS,
        models={"target": (pair.target, fingerprint(pair.target)), "drafter": (pair.drafter, fingerprint(pair.drafter))},
        keeps_path=mistake is None and keeps_path(own, temperature > 0),
    )


@pytest.mark.parametrize("method, temperature", [("draft_model", 1.0), ("draft_model", 0.0), ("prompt_lookup", 0.7), ("token_recycling", 1.0)])
def test_a_lossless_method_passes_with_its_controls(pair, method, temperature):
    controls = method != "token_recycling"  # a model this small follows from one token to the next, so recycling is always right on it
    report = verify(subject(pair, method, temperature=temperature, controls=controls), QUICK)
    assert report.passed, report.verdict
    names = [check.name for check in report.checks]
    assert ("sampling" in names) == (temperature > 0) and ("greedy control" in names) == controls
    assert ("path" in names) == (temperature > 0 and method != "draft_model")


@pytest.mark.parametrize(
    "mistake, k", [("residual_skipped", 3), ("unprocessed_proposal", 3), ("argmax_as_sampled", 3), ("draft_noise_shared", 3), ("bonus_row_off", 1)]
)
def test_planted_mistakes_fail(pair, mistake, k):
    report = verify(subject(pair, mistake=mistake, num_assistant_tokens=k), QUICK)
    assert not report.passed and report.verdict.startswith("FAIL")
    assert not next(check for check in report.checks if check.name == "sampling").passed


def test_a_wrong_greedy_rule_fails_without_any_sampling(pair):
    report = verify(subject(pair, mistake="bonus_row_off", temperature=0.0, num_assistant_tokens=1), QUICK)
    greedy = next(check for check in report.checks if check.name == "greedy")
    assert not greedy.passed and "unexplained" in report.verdict


def test_a_control_that_is_not_caught_is_a_failure(pair):
    """Eight texts cannot show anything, and the verdict says so instead of passing."""
    report = verify(subject(pair, controls=True), replace(QUICK, samples=8, prefixes=1, false_alarm=0.001))
    assert not report.passed and "too weak" in report.verdict


def test_a_method_that_drafts_nothing_is_not_called_tested(pair):
    report = verify(subject(pair, "none"), QUICK)
    assert not report.passed and "nothing was tested" in report.verdict


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_plain_decoding_is_compared_with_transformers_own(pair, temperature):
    """Nothing is drafted, and that is no fault; the control is a wrong temperature."""
    def plain(**changes):
        return replace(subject(pair, "none", temperature=temperature), drafts=False, keeps_path=False, **(decodings(pair, {"method": "none"}) | changes))

    report = verify(plain(), QUICK)
    assert report.passed, report.verdict
    assert {"greedy control"} <= {check.name for check in report.checks} and "nothing was tested" not in report.verdict
    wrong = verify(plain(speculative=planted.Hotter(Speculator(pair.target, method="none"))), QUICK)
    failed = {check.name for check in wrong.checks if not check.passed}
    assert failed == ({"greedy"} if temperature == 0 else {"greedy", "sampling"})


def test_the_reference_draws_anew_for_every_seed_and_cuts_at_an_end(pair):
    """Seeds of the two samples differ above bit 32, which torch does not read."""
    def texts(seed, ends=(), temperature=1.0):
        made = Reference(pair.target, ends).generate(PROMPTS[:3], max_new_tokens=12, temperature=temperature, seed=[seed] * 3)
        return [one.token_ids for one in made]

    assert texts(0) == texts(0) and texts(0) != texts(1 << 40) != texts(1 << 41)
    greedy = texts(0, temperature=0.0)
    end = greedy[0][4]
    assert texts(0, (end,), 0.0)[0] == greedy[0][: greedy[0].index(end) + 1]
    model = pair.target.generate(torch.tensor([PROMPTS[1]]), attention_mask=torch.ones(1, len(PROMPTS[1]), dtype=torch.long), do_sample=False,
                                 max_new_tokens=12, pad_token_id=0)  # fmt: skip
    assert model[0, len(PROMPTS[1]) :].tolist() == greedy[1]


def test_named_methods_draft_in_every_step_and_auto_as_it_likes(pair):
    def control(own, sampled):
        return type(own.parts(sampled).control).__name__

    named = decodings(pair, {"method": "draft_model", "num_assistant_tokens": "auto", "rule": "auto", "control": "auto"})
    assert control(named["speculative"], True) == control(named["greedily"], False) == control(named["control"]["sampling"], True) == "Fixed"
    auto = decodings(pair, {"method": "auto", "num_assistant_tokens": "auto", "rule": "auto", "control": "auto"})
    assert (control(auto["speculative"], True), control(auto["greedily"], False)) == ("Auto", "Fixed")
    asked = decodings(pair, {"method": "draft_model", "num_assistant_tokens": 3, "rule": "auto", "control": "heuristic"})
    assert control(asked["speculative"], True) == control(asked["greedily"], False) == "Heuristic"


def test_a_changed_model_is_named(pair):
    one = subject(pair)
    with torch.no_grad():
        pair.drafter.lm_head.weight[0, 0] += 1e-3
    try:
        check = unchanged(one)
    finally:
        with torch.no_grad():
            pair.drafter.lm_head.weight[0, 0] -= 1e-3
    assert not check.passed and "drafter" in check.said and "target" not in check.said


@pytest.mark.parametrize("change", ["weight", "hook", "mode", "config", "generation_config", "forward"])
def test_the_fingerprint_sees(change):
    model = tiny(3)
    before = fingerprint(model)
    assert before == fingerprint(model)
    if change == "weight":
        model.model.norm.weight.data[0] += 1e-6
    elif change == "hook":
        model.model.layers[0].register_forward_hook(lambda *_: None)
    elif change == "mode":
        model.train()
    elif change == "config":
        model.config.rms_norm_eps = 0.5
    elif change == "generation_config":
        model.generation_config.num_assistant_tokens = 9
    else:
        model.model.forward = model.model.forward
    assert fingerprint(model) != before


def test_a_tie_is_explained_and_a_gap_is_not(pair):
    prompt, request = PROMPTS[0], Request(prompt=torch.tensor([1]), max_new_tokens=1)
    ids = torch.tensor([prompt])
    best = pair.target(input_ids=ids).logits[0, -1].topk(2).indices.tolist()
    (found,) = audit(pair.target, [prompt], [[best[0]]], [[best[1]]], request)
    assert not found.explained and found.gap == pytest.approx(top_gap(pair.target, ids, request, len(prompt)))
    assert 0 <= found.noise < 1e-4 and found.place == 0
    twin = tiny(0)
    with torch.no_grad():  # two words with one and the same row in the head: an exact tie
        twin.lm_head.weight[best[1]] = twin.lm_head.weight[best[0]]
    (tie,) = audit(twin, [prompt], [[best[0]]], [[best[1]]], request)
    assert tie.explained and tie.gap == 0


def test_a_text_that_ends_early_is_never_a_tie(pair):
    (found,) = audit(pair.target, [PROMPTS[0]], [[1, 2]], [[1]], Request(prompt=torch.tensor([1]), max_new_tokens=2))
    assert not found.explained and found.tokens == (2, None)


def test_noise_is_small_but_measured(pair):
    assert 0 <= noise(pair.target, torch.tensor([PROMPTS[0]])) < 1e-4


def test_a_drafter_that_learns_is_given_time_to_start(pair):
    assert sufficient_window(subject(pair), PROMPTS[:2], QUICK) == QUICK.window
    assert sufficient_window(subject(pair, "token_recycling"), PROMPTS[:2], QUICK) > QUICK.window


def test_the_sample_size_follows_from_power():
    import numpy as np

    law = np.array([0.4, 0.3, 0.3])
    small, large = sized([law], replace(QUICK, samples=None, effect=0.4)), sized([law], replace(QUICK, samples=None, effect=0.1))
    assert small.samples < large.samples and small.power >= QUICK.power
