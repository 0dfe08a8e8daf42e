"""The bundled target with a drafter of another vocabulary: the tokens of plain decoding, the acceptance that theory says, models left alone.

Full size, 40 held-out prompts of 128 tokens for every method (an hour on two busy cores):

    ANYDRAFT_IDENTITY=40x128 python -m pytest tests/vocabulary/test_bundled_pair.py -s
"""

import hashlib
import json
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from anydraft import Speculator, cli, zoo
from anydraft.vocabulary.alignment import Aligner

PROMPTS, TOKENS = map(int, os.environ.get("ANYDRAFT_IDENTITY", "6x24").split("x"))
FULL = PROMPTS >= 40
METHODS = ("tli", "slem", "union", "tli_slem", "rdk", "auto")
SPREAD = 0.02  # the most that measured acceptance may differ from the exact mean, at full size


def load(name):
    return AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(zoo.path(name))


@pytest.fixture(scope="module")
def pair():
    return *load("target"), *load("draft-spm")


@pytest.fixture(scope="module")
def texts():
    return [prompt["text"] for prompt in zoo.prompts()][:PROMPTS]


@pytest.fixture(scope="module")
def plain(pair, texts):
    return [g.token_ids for g in Speculator(pair[0], pair[1], method="none", max_batch_size=8).generate(texts, max_new_tokens=TOKENS)]


def digest(model):
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        state.update(name.encode())
        state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def near_tie(model, prompt, ours, want):
    """Whether the two differ first where the target's best two logits are nearer than the noise between forwards of different shapes."""
    same = next((i for i, (a, b) in enumerate(zip(ours, want)) if a != b), None)
    if same is None:
        return False
    ids = torch.tensor([prompt + want[:same]])
    with torch.inference_mode():
        one, four = model(ids).logits[0, -1], model(ids.repeat(4, 1)).logits[:, -1]
    best = one.topk(2).values
    return float(best[0] - best[1]) <= 2 * float((one - four).abs().max()) + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_identity(pair, texts, plain, capsys, method):
    target, tokenizer, drafter, its = pair
    made = Speculator(target, tokenizer, drafter, its, method, 4, control="fixed", max_batch_size=8).generate(texts, max_new_tokens=TOKENS)
    other = [(g, want) for g, want in zip(made, plain) if g.token_ids != want]
    ties = [g for g, want in other if near_tie(target, g.prompt_token_ids, g.token_ids, want)]
    steps = sum(len(g.metrics.per_step_drafted) for g in made)
    with capsys.disabled():
        print(f"\n{method}: {len(made) - len(other)} of {len(made)} identical over {TOKENS} tokens, {len(ties)} differ at a tie;"
              f" {sum(len(g.token_ids) for g in made) / steps:.2f} tokens per step")  # fmt: skip
    assert len(other) == len(ties) and len(ties) <= max(1, PROMPTS // 20)
    assert steps < sum(len(g.token_ids) for g in made)


@pytest.mark.slow
def test_acceptance_of_tli_at_temperature_1(pair, texts, capsys):
    """The rate at which first drafts are accepted, against the mean of sum min(p, q') that forwards without any cache of ours give."""
    target, tokenizer, drafter, its = pair
    s = Speculator(target, tokenizer, drafter, its, "tli", 1, control="fixed", max_batch_size=8)
    run = s.run(s.requests(texts, max_new_tokens=TOKENS, temperature=1.0, seed=list(range(len(texts)))))
    contexts = run.parts.drafter.shared.contexts
    ids, exact, expected, accepted = contexts.aligner.intersection, [], [], 0
    judged = 0
    for step in run.steps():
        if not step.draft.nodes:
            continue
        for b, path in enumerate(step.path):
            if not bool(step.draft.live[b, 0]):
                continue
            p = step.scores.logits[b, 0].softmax(-1)
            q = step.draft.law.rows(0)[b]
            expected.append(float(torch.minimum(p, q).sum()))
            judged, accepted = judged + 1, accepted + bool(path)
            if len(exact) < 40:  # the same from the models alone
                with torch.inference_mode():
                    text = step.before.row(b)
                    own = Aligner(ids)
                    state = own.start(step.before.requests[b].prompt.tolist())
                    own.sync(state, text[len(step.before.requests[b].prompt) :].tolist())
                    alone_p = target(text[None]).logits[0, -1].softmax(-1)
                    alone = drafter(torch.tensor([state.drafter_ids])).logits[0, -1, ids.drafter_ids].softmax(-1)
                exact.append((expected[-1], float(torch.minimum(alone_p[ids.target_ids], alone).sum())))
    rate, mean = accepted / judged, sum(expected) / judged
    error = (sum(e * (1 - e) for e in expected) ** 0.5) / judged
    off = sorted(abs(a - b) for a, b in exact)
    with capsys.disabled():
        print(f"\ntli at temperature 1: {accepted} of {judged} first drafts accepted, {rate:.4f}; exact mean {mean:.4f}, standard error {error:.4f};"
              f" laws recomputed without caches differ by {off[len(off) // 2]:.1e} (median), {off[-1]:.1e} (most)")  # fmt: skip
    assert off[len(off) // 2] < 1e-4
    assert abs(rate - mean) < (SPREAD if FULL else max(SPREAD, 4 * error))


@pytest.mark.slow
def test_bytes_find_more_than_strings(pair, texts, capsys):
    """How much of the target's law lies on common tokens, by either way of comparing."""
    target, tokenizer, drafter, its = pair
    both = Speculator(target, tokenizer, drafter, its, "tli").pair.aligner.intersection
    masses = {"bytes": [], "strings": []}
    with torch.inference_mode():
        for text in texts[:8]:
            laws = target(tokenizer(text, return_tensors="pt").input_ids).logits[0].softmax(-1)
            for by, found in masses.items():
                found.append(both.expected(laws, by))
    means = {by: float(torch.cat(found).mean()) for by, found in masses.items()}
    with capsys.disabled():
        print(f"\ncommon tokens: {both.size} by bytes with E[p(I)] = {means['bytes']:.4f},"
              f" {both.size_by_strings} by strings with E[p(I)] = {means['strings']:.4f}")  # fmt: skip
    assert both.size > both.size_by_strings and means["bytes"] > means["strings"] + 0.01


@pytest.mark.slow
def test_the_drafter_is_left_as_it_was(pair, texts):
    target, tokenizer, drafter, its = pair
    before, vocabulary = (digest(target), digest(drafter)), its.get_vocab()
    probe = its("def read(self):\n    return ", return_tensors="pt").input_ids
    with torch.inference_mode():
        said = drafter(probe).logits
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in drafter.modules()]
    for method in METHODS:
        Speculator(target, tokenizer, drafter, its, method, 3).generate(texts[:2], max_new_tokens=8, temperature=1.0, seed=1)
    with torch.inference_mode():
        assert torch.equal(drafter(probe).logits, said)
    assert (digest(target), digest(drafter)) == before and its.get_vocab() == vocabulary
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in drafter.modules()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tli", "slem", "union", "tli_slem", "rdk", "fr_spec", "slrs", "auto"])
def test_on_the_command_line(method, tmp_path, capsys):
    """Stop strings, a file of prompts, several texts a prompt: the lines of plain decoding; a method that does not fit names one that does."""
    lines = tmp_path / "prompts.jsonl"
    lines.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("import os\n", "def f(x):\n    return", "naïve 你好 👍")))
    common = ["--model", zoo.path("target"), "--max-new-tokens", 10, "--json"]
    own = ["--assistant-model", zoo.path("draft-spm"), "--method", method]
    if method == "fr_spec":
        assert cli_run("calibrate", "rdk", "--tokens", 16, "--output", tmp_path / "s") == 0
        own += ["--option", f"statistics={tmp_path / 's'}"]
    asked = [["def read(self):", "--stop", "("], ["--input", lines], ["x = [", "--num-return-sequences", 2, "--temperature", 0.8, "--seed", 3]]
    for arguments in asked[:1] if method == "slrs" else asked:
        capsys.readouterr()
        status = cli_run("generate", *arguments, *common, *own)
        made = capsys.readouterr()
        if method == "slrs":
            assert status == 2 and "method='tli'" in made.err
            return
        assert status == 0 and cli_run("generate", *arguments, *common, "--method", "none") == 0
        texts = [[json.loads(line)["token_ids"] for line in shown.splitlines()] for shown in (made.out, capsys.readouterr().out)]
        assert texts[0] == texts[1] or ("--seed" in arguments and list(map(len, texts[0])) == list(map(len, texts[1])))


def cli_run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    return ended.value.code
