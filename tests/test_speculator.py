"""What users hold, on the bundled models: the tokens of transformers' `generate`, the same draws whatever the batch, and models left alone.

Identity at full size, 40 prompts of 128 tokens for every setting (takes most of an hour on two cores):

    ANYDRAFT_IDENTITY=40x128 python -m pytest tests/test_speculator.py -k identity -s
"""

import hashlib
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from anydraft import Speculator, zoo

SIZE = os.environ.get("ANYDRAFT_IDENTITY", "4x32")
PROMPTS, TOKENS = map(int, SIZE.split("x"))
FULL = PROMPTS >= 40

METHODS = {
    "none": {"method": "none"},
    "draft_model": {"method": "draft_model", "control": "confidence"},
    "draft_model_k5": {"method": "draft_model", "num_assistant_tokens": 5},
    "draft_model_tree": {"method": "draft_model", "branching": (3, 2, 1, 1), "num_assistant_tokens": 24},
    "prompt_lookup": {"method": "prompt_lookup", "num_assistant_tokens": 10},
    "token_recycling": {"method": "token_recycling", "num_assistant_tokens": 24},
}
"""None of them looks at a clock: what is drafted, and so what is sampled, then depends on the seed alone."""


class Alternating(LogitsProcessor):
    """A user's processor: which half of the vocabulary is dearer depends on the last id and on the length."""

    def __call__(self, input_ids, scores):
        odd = (input_ids[:, -1:] + input_ids.shape[1]) % 2
        return scores - 1.5 * ((torch.arange(scores.shape[1]) % 2) == odd)


class AfterThree(StoppingCriteria):
    """A user's criterion: ends once an id has occurred three times among the last ten."""

    def __call__(self, input_ids, scores, **kwargs):
        last = input_ids[:, -10:]
        return (last == last[:, -1:]).sum(1) >= 3


def load(name: str, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=dtype).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(zoo.path("target"))


@pytest.fixture(scope="module")
def target():
    return load("target")


@pytest.fixture(scope="module")
def drafter():
    return load("draft-bpe")


@pytest.fixture(scope="module")
def precise():
    """The pair in float64: sums that depend on the batch's shape then never decide a draw."""
    return load("target", torch.float64), load("draft-bpe", torch.float64)


@pytest.fixture(scope="module")
def texts():
    return [prompt["text"] for prompt in zoo.prompts()]


@pytest.fixture(scope="module")
def newline(tokenizer):
    (id,) = tokenizer("\n", add_special_tokens=False).input_ids
    return id


def speculator(pair, tokenizer, **options) -> Speculator:
    target, drafter = pair
    needs = options.get("method", "draft_model") == "draft_model"
    return Speculator(target, tokenizer, drafter if needs else None, **options)


# -- greedy identity with transformers --------------------------------------------------------------------------------


def settings(tokenizer, newline) -> dict[str, tuple[dict, dict]]:
    """Name: (options of ours, options of transformers)."""
    stops = ["return", "\n\n", "self."]
    return {
        "plain": ({}, {}),
        "stop_strings": ({"stop_strings": stops}, {"stop_strings": stops, "tokenizer": tokenizer}),
        "penalties": ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        "processors": (
            {"logits_processor": Alternating(), "stopping_criteria": AfterThree()},
            {"logits_processor": LogitsProcessorList([Alternating()]), "stopping_criteria": StoppingCriteriaList([AfterThree()])},
        ),
        "min_new_tokens": (
            {"min_new_tokens": 24, "stop_token_ids": [newline]},
            {"min_new_tokens": 24, "eos_token_id": [tokenizer.eos_token_id, newline]},
        ),
    }


@pytest.fixture(scope="module")
def theirs(target, tokenizer, newline, texts):
    """setting -> new ids of every prompt by transformers' generate, one prompt a call."""
    held = {}

    def of(setting: str, count: int) -> list[list[int]]:
        options = settings(tokenizer, newline)[setting][1]
        done = held.setdefault(setting, [])
        for text in texts[len(done) : count]:
            ids = tokenizer(text, return_tensors="pt").input_ids
            out = target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, **options)
            done.append(out[0, ids.shape[1] :].tolist())
        return done[:count]

    return of


def is_tie(model, prompt: list[int], ours: list[int], want: list[int], options: dict) -> bool:
    """Whether the first difference stands where the two largest scores are nearer than the noise between one-row and four-row forwards."""
    same = next((i for i, (a, b) in enumerate(zip(ours, want)) if a != b), None)
    if same is None:
        return False  # one is a prefix of the other: not a tie of two tokens
    ids = torch.tensor([prompt + want[:same]])
    with torch.inference_mode():
        one, four = model(ids).logits[0, -1], model(ids.repeat(4, 1)).logits[:, -1]
    noise = float((one - four).abs().max())
    options = {key: value for key, value in options.items() if key not in ("stop_strings", "min_new_tokens")}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, output_scores=True,
                         return_dict_in_generate=True, **options)  # fmt: skip
    best = out.scores[0][0].topk(2).values
    return float(best[0] - best[1]) <= noise


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True], ids=["single", "batched"])
@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("setting", ["plain", "stop_strings", "penalties", "processors", "min_new_tokens"])
def test_identity(target, drafter, tokenizer, newline, texts, theirs, capsys, setting, method, batched):
    count = PROMPTS if FULL or setting == "plain" else 2
    want, (options, their_options) = theirs(setting, count), settings(tokenizer, newline)[setting]
    ours = speculator((target, drafter), tokenizer, **METHODS.get(method, {}), max_batch_size=8)
    if batched:
        got = ours.generate(texts[:count], max_new_tokens=TOKENS, **options)
    else:
        got = [ours.generate(text, max_new_tokens=TOKENS, **options) for text in texts[:count]]
    different = [n for n in range(count) if got[n].token_ids != want[n]]
    ties = [n for n in different if is_tie(target, got[n].prompt_token_ids, got[n].token_ids, want[n], their_options)]
    drafted = sum(g.metrics.num_draft_tokens for g in got)
    accepted = sum(g.metrics.num_accepted_draft_tokens for g in got)
    if FULL:
        with capsys.disabled():
            length = sum(g.metrics.num_emitted_tokens for g in got) / max(1, sum(len(g.metrics.per_step_drafted) for g in got))
            print(f"\nidentity {setting:15s} {method:17s} {'batched' if batched else 'single ':7s} {count} prompts x {TOKENS}: "
                  f"{sum(map(len, want))} tokens, {len(different)} prompts differ, {len(ties)} of them ties; "
                  f"{accepted} of {drafted} drafted tokens accepted, {length:.2f} tokens a step", end="")  # fmt: skip
    assert different == ties, f"prompts {sorted(set(different) - set(ties))} differ where no tie is"
    assert drafted > 0 or method in ("none", "auto"), "nothing was drafted: the test sees nothing"
    assert accepted > 0 or method in ("none", "auto") or setting != "plain"


def test_the_tie_audit_can_refuse(target, tokenizer, texts):
    """A difference where one token is far ahead is no tie."""
    prompt = tokenizer(texts[0]).input_ids
    out = target.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)[0, len(prompt) :].tolist()
    assert not is_tie(target, prompt, [*out[:2], (out[2] + 1) % 4096, out[3]], out, {})
    assert not is_tie(target, prompt, out[:2], out, {})


# -- sampling ---------------------------------------------------------------------------------------------------------

SAMPLED = {"max_new_tokens": 10, "temperature": 1.0}


def ids_of(generations) -> list[list[int]]:
    return [g.token_ids for g in generations]


@pytest.mark.parametrize("method", ["draft_model", "draft_model_tree", "prompt_lookup"])
def test_a_seed_gives_the_same_draws_in_any_company(precise, tokenizer, texts, method):
    ours = speculator(precise, tokenizer, **METHODS[method])
    seeds, some = [11, 12, 13], texts[:3]
    together = ids_of(ours.generate(some, seed=seeds, **SAMPLED))
    alone = [ours.generate(text, seed=seed, **SAMPLED).token_ids for text, seed in zip(some, seeds)]
    turned = ids_of(ours.generate(some[::-1], seed=seeds[::-1], **SAMPLED))[::-1]
    few = ids_of(speculator(precise, tokenizer, **METHODS[method], max_batch_size=2).generate(some, seed=seeds, **SAMPLED))
    assert together == alone == turned == few
    assert together != ids_of(ours.generate(some, seed=[s + 1 for s in seeds], **SAMPLED))


@pytest.mark.parametrize("method", ["draft_model_k5", "draft_model_tree", "prompt_lookup", "token_recycling"])
def test_the_match_rule_returns_the_very_tokens_of_plain_sampling(precise, tokenizer, texts, method):
    options = {"temperature": 1.0, "top_p": 0.95, "seed": [3, 4, 5], "max_new_tokens": 16}
    plain = speculator(precise, tokenizer, method="none").generate(texts[:3], **options)
    ours = speculator(precise, tokenizer, **METHODS[method], rule="match").generate(texts[:3], **options)
    assert ids_of(plain) == ids_of(ours)
    assert sum(g.metrics.num_accepted_draft_tokens for g in ours) > 0


def test_several_sequences_are_flat_in_prompt_order_with_noise_of_their_own(precise, tokenizer, texts):
    ours = speculator(precise, tokenizer, method="draft_model")
    many = ours.generate(texts[:2], seed=[1, 2], num_return_sequences=3, **SAMPLED)
    assert [g.prompt_token_ids for g in many] == [tokenizer(t).input_ids for t in texts[:2] for _ in range(3)]
    assert len({tuple(g.token_ids) for g in many}) == 6
    first = ids_of(ours.generate(texts[:2], seed=[1, 2], **SAMPLED))
    assert [many[0].token_ids, many[3].token_ids] == first, "asking for more sequences changes the first"
    assert len(ours.generate(texts[0], num_return_sequences=2, **SAMPLED)) == 2


def test_without_a_seed_torchs_generator_governs(precise, tokenizer, texts):
    ours = speculator(precise, tokenizer, method="draft_model")
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(ids_of([ours.generate(texts[0], **SAMPLED), ours.generate(texts[0], **SAMPLED)]))
    assert runs[0] == runs[1] != runs[2] and runs[0][0] != runs[0][1]


def test_do_sample_alone_means_temperature_one_and_nothing_means_greedy(precise, tokenizer, texts):
    ours = speculator(precise, tokenizer, method="draft_model")
    kept = {"max_new_tokens": 16, "seed": 9}
    assert ours.generate(texts[0], do_sample=True, **kept).token_ids == ours.generate(texts[0], temperature=1.0, **kept).token_ids
    greedy = ours.generate(texts[0], **kept).token_ids
    for same in ({"do_sample": False}, {"temperature": 0.0}, {"temperature": 1.0, "top_k": 1}):
        assert greedy == ours.generate(texts[0], **same, **kept).token_ids


# -- what is returned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "draft_model_tree", "prompt_lookup"])
def test_logprobs_are_those_of_a_direct_forward(target, drafter, tokenizer, texts, method):
    ours = speculator((target, drafter), tokenizer, **METHODS[method])
    got = ours.generate(texts[:2], max_new_tokens=20, logprobs=3, temperature=0.8, seed=1)
    for one in got:
        with torch.inference_mode():
            law = target(torch.tensor([one.prompt_token_ids + one.token_ids])).logits[0].float().log_softmax(-1)
        law = law[len(one.prompt_token_ids) - 1 : -1]
        assert [t.token_id for t in one.logprobs] == one.token_ids
        for row, entry in zip(law, one.logprobs):
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=2e-4)
            assert [lp for _, lp in entry.top] == pytest.approx(row.topk(3).values.tolist(), abs=2e-4)
            assert all(lp == pytest.approx(float(row[id]), abs=2e-4) for id, lp in entry.top)
    assert speculator((target, drafter), tokenizer, method="none").generate(texts[0], max_new_tokens=2).logprobs is None


@pytest.mark.parametrize("method", ["none", "draft_model_tree", "prompt_lookup", "token_recycling"])
def test_pieces_of_a_stream_add_up_and_say_who_proposed(target, drafter, tokenizer, texts, method):
    options = {"max_new_tokens": 24, "stop_strings": ["return", "\n\n", "self."]}
    ours = speculator((target, drafter), tokenizer, **METHODS[method])
    whole, pieces = ours.generate(texts[:3], **options), list(ours.stream(texts[:3], **options))
    assert "stop" in {g.finish_reason for g in whole}, "no stop string was met: the test sees nothing"
    for n, one in enumerate(whole):
        mine = [piece for piece in pieces if piece.request == n]
        assert "".join(piece.text for piece in mine) == one.text
        assert [id for piece in mine for id in piece.token_ids] == one.token_ids
        assert [piece.finish_reason for piece in mine] == [None] * (len(mine) - 1) + [one.finish_reason]
        for piece, accepted in zip(mine, one.metrics.per_step_accepted):
            assert len(piece.proposers) == len(piece.token_ids)
            assert piece.proposers == [METHODS[method]["method"]] * accepted + ["target"] * (len(piece.token_ids) - accepted)
            assert accepted in (len(piece.token_ids), len(piece.token_ids) - 1)


def test_a_stream_shows_each_step_as_it_happens(target, drafter, tokenizer, texts):
    stream = speculator((target, drafter), tokenizer, method="none").stream(texts[0], max_new_tokens=5)
    assert len(next(stream).token_ids) == 1
    assert len(list(stream)) == 4


def test_accounts_add_up(target, drafter, tokenizer, texts):
    for method in ("none", "draft_model", "draft_model_tree", "token_recycling"):
        for one in speculator((target, drafter), tokenizer, **METHODS[method]).generate(texts[:3], max_new_tokens=30):
            m = one.metrics
            assert m.num_emitted_tokens == len(one.token_ids) == 30
            assert len(m.per_step_accepted) == len(m.per_step_drafted) >= m.num_spec_steps
            own = len(m.per_step_accepted)  # each step emits what it accepts and one token of the target, unless the limit cuts that
            assert m.num_emitted_tokens - m.num_accepted_draft_tokens in (own, own - 1)
            assert all(0 <= a <= d for a, d in zip(m.per_step_accepted, m.per_step_drafted))
            parts = m.timing.prefill_s + m.timing.draft_s + m.timing.verify_s + m.timing.other_s
            assert parts == pytest.approx(m.timing.total_s, rel=1e-6) and m.timing.total_s > 0


def test_a_batch_is_refilled_as_rows_finish(target, drafter, tokenizer, texts):
    ours = speculator((target, drafter), tokenizer, method="draft_model", max_batch_size=2)
    got = ours.generate(texts[:5], max_new_tokens=20, stop_strings=["\n"])
    alone = [ours.generate(t, max_new_tokens=20, stop_strings=["\n"]) for t in texts[:5]]
    assert ids_of(got) == ids_of(alone)
    assert max(g.metrics.batch_size for g in got) == 2
    assert len({len(g.token_ids) for g in got}) > 1, "no row finished before another: the test sees nothing"


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


class Interrupting(LogitsProcessor):
    def __init__(self, at: int):
        self.at = at

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] >= self.at:
            raise KeyboardInterrupt
        return scores


class InterruptingCriterion(StoppingCriteria):
    def __init__(self, at: int):
        self.at = at

    def __call__(self, input_ids, scores, **kwargs):
        if input_ids.shape[1] >= self.at:
            raise KeyboardInterrupt
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("method", ["none", "draft_model", "prompt_lookup"])
@pytest.mark.parametrize("kind", ["processor", "criterion"])
def test_ctrl_c_returns_the_text_so_far(target, drafter, tokenizer, texts, kind, method):
    ours = speculator((target, drafter), tokenizer, **METHODS[method])
    whole = ours.generate(texts[0], max_new_tokens=30)
    at = len(whole.prompt_token_ids) + 12
    hook = {"logits_processor": Interrupting(at)} if kind == "processor" else {"stopping_criteria": InterruptingCriterion(at)}
    cut = ours.generate(texts[0], max_new_tokens=30, **hook)
    assert cut.finish_reason == "interrupted"
    assert 1 <= len(cut.token_ids) <= 12 and cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert whole.text.startswith(cut.text) and cut.text
    again = ours.generate(texts[0], max_new_tokens=30)
    assert again.token_ids == whole.token_ids and again.finish_reason == "length", "the interrupted call left something behind"


def test_ctrl_c_in_a_batch_keeps_what_has_finished(target, drafter, tokenizer, texts):
    ours = speculator((target, drafter), tokenizer, method="none", max_batch_size=1)
    whole = ours.generate(texts[:3], max_new_tokens=6)
    seen = []

    def criterion(input_ids, scores):
        seen.append(1)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return False

    cut = ours.generate(texts[:3], max_new_tokens=6, stopping_criteria=criterion)
    assert [g.finish_reason for g in cut] == ["length", "interrupted", "interrupted"]
    assert cut[0].token_ids == whole[0].token_ids and cut[1].token_ids == whole[1].token_ids[:3] and cut[2].token_ids == []


# -- the user's models -------------------------------------------------------------------------------------------------


def fingerprint(model) -> dict[str, object]:
    """Everything of a model that a user could find changed."""
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    hooks = {
        f"{name}.{kind}": len(getattr(module, kind))
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks", "_buffers", "_parameters", "_modules")
    }
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    plain = {name: (module.training, module.forward.__func__ is type(module).forward) for name, module in model.named_modules()}
    configs = (model.config.to_json_string(use_diff=False), model.generation_config.to_json_string(use_diff=False))
    grads = {name: (p.requires_grad, p.grad is None, p.data_ptr(), p._version) for name, p in model.named_parameters()}
    return {"weights": weights.hexdigest(), "hooks": hooks, "attributes": attributes, "plain": plain, "configs": configs, "grads": grads}


def settings_of(tokenizer) -> tuple:
    return sorted(tokenizer.get_vocab().items()), tokenizer.padding_side, tokenizer.pad_token, tokenizer.chat_template


def test_the_users_models_are_as_they_were(tokenizer, texts):
    target, drafter = load("target"), load("draft-bpe")
    before = fingerprint(target), fingerprint(drafter)
    words = settings_of(tokenizer)
    results = []
    for _ in range(2):  # two Speculators in a row on the same models
        for method in ("none", "draft_model_tree", "token_recycling"):
            ours = speculator((target, drafter), tokenizer, **METHODS[method])
            results.append(ids_of(ours.generate(texts[:2], max_new_tokens=12)))
            ours.generate(texts[0], max_new_tokens=6, temperature=1.0, top_p=0.9, seed=1, logprobs=2)
            next(iter(ours.stream(texts[0], max_new_tokens=6)))  # a stream that is left unfinished
    assert all(result == results[0] for result in results)
    for model, was in zip((target, drafter), before):
        now = fingerprint(model)
        assert all(now[key] == was[key] for key in was), [key for key in was if now[key] != was[key]]
    assert settings_of(tokenizer) == words


def test_the_fingerprint_sees_what_it_should():
    model = load("draft-bpe")
    was = fingerprint(model)
    handle = model.model.register_forward_hook(lambda *_: None)
    assert fingerprint(model)["hooks"] != was["hooks"]
    handle.remove()
    model.model.left_behind = 1
    assert fingerprint(model)["attributes"] != was["attributes"]
    del model.model.left_behind
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    changed = fingerprint(model)
    assert changed["weights"] != was["weights"]
    model.config.use_cache = not model.config.use_cache
    assert fingerprint(model)["configs"] != was["configs"]
