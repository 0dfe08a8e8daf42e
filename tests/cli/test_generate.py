"""`anydraft generate` with the bundled models: what it prints, what it writes, what it refuses, and how it ends when it is interrupted."""

import functools
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from anydraft import cli, loading
from anydraft.cli import generate as command

PROMPT = "import os\n\n\ndef read(path):\n"


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """The bundled models are read once for the module; nobody may change them anyway."""
    monkeypatch.setattr(loading, "load", kept)


@functools.cache
def _load(model, tokenizer, settings):
    return _original(model, tokenizer, **dict(settings))


def kept(model, tokenizer=None, **settings):
    return _load(model, tokenizer, tuple(settings.items()))


_original = loading.load


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", *map(str, arguments)])
    return ended.value.code


@pytest.fixture(scope="module")
def expected():
    """Greedy continuation of PROMPT by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from anydraft import zoo

    tokenizer = AutoTokenizer.from_pretrained(zoo.path("target"))
    model = AutoModelForCausalLM.from_pretrained(zoo.path("target"), dtype=torch.float32).eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    new = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    return ids[0].tolist(), new.tolist(), tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_plain_text_is_the_target_own_and_nothing_else(capsys, expected):
    assert run(PROMPT, "--max-new-tokens", 24) == 0
    shown = capsys.readouterr()
    assert shown.out == expected[2] + "\n"
    assert "Loading" not in shown.err and "Traceback" not in shown.err


@pytest.mark.parametrize("method", ["draft_model", "prompt_lookup", "token_recycling", "none"])
def test_json_of_every_method_holds_the_same_tokens(capsys, expected, method):
    assert run(PROMPT, "--max-new-tokens", 24, "--method", method, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["prompt_token_ids"], made["token_ids"], made["text"]) == expected
    assert made["finish_reason"] == "length"
    counted = made["metrics"]["speculative_decoding"]
    assert sum(counted["per_step_accepted"]) == counted["num_accepted_draft_tokens"] <= counted["num_draft_tokens"]
    assert (counted["num_draft_tokens"] > 0) == (method != "none")
    timing = made["metrics"]["timing"]
    assert {"prefill_s", "draft_s", "verify_s", "other_s", "total_s", "tokens_per_s"} <= timing.keys()
    parts = sum(timing[name] for name in ("prefill_s", "draft_s", "verify_s", "other_s"))
    assert parts == pytest.approx(timing["total_s"], rel=1e-6) and timing["tokens_per_s"] == pytest.approx(24 / timing["total_s"])


def test_options_reach_the_parts(capsys):
    assert run(PROMPT, "--max-new-tokens", 8, "--json", "--option", "branching=2,1", "--num-assistant-tokens", 6, "--control", "fixed") == 0
    counted = json.loads(capsys.readouterr().out)["metrics"]["speculative_decoding"]
    assert counted["num_spec_tokens"] == 4  # 2 nodes, then one below each


def test_sampling_is_governed_by_the_seed(capsys):
    texts = []
    for seed in (1, 1, 2):
        assert run(PROMPT, "--max-new-tokens", 16, "--temperature", 1, "--seed", seed, "--num-assistant-tokens", 4) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_stop_strings_end_the_text_before_them(capsys, expected):
    whole = expected[2]
    stop = whole[6:9]
    assert run(PROMPT, "--max-new-tokens", 24, "--stop", stop) == 0
    assert capsys.readouterr().out == whole[: whole.index(stop)] + "\n"


def test_several_sequences(capsys):
    arguments = (PROMPT, "--max-new-tokens", 8, "--temperature", 1, "--seed", 3, "--num-return-sequences", 2, "--num-assistant-tokens", 3)
    assert run(*arguments, "--json", "--logprobs", 1) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(made) == 2 and made[0]["token_ids"] != made[1]["token_ids"]
    assert [entry["token_id"] for entry in made[0]["logprobs"]] == made[0]["token_ids"]
    assert run(*arguments) == 0
    assert capsys.readouterr().out == "".join(f"--- {n} of 2\n{one['text']}\n" for n, one in enumerate(made, 1))


def test_standard_input_is_the_prompt_as_it_is(capsys, monkeypatch, expected):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    assert run("-", "--max-new-tokens", 24) == 0
    assert capsys.readouterr().out == expected[2] + "\n"


# -- files -----------------------------------------------------------------------------------------------------------


def lines_of(path, *objects):
    path.write_text("".join(json.dumps(o) + "\n" if isinstance(o, dict) else o + "\n" for o in objects), encoding="utf-8")
    return path


def test_a_file_of_prompts_keeps_its_order_and_each_line_its_options(tmp_path, capsys, expected):
    ids, new, text = expected
    given = lines_of(
        tmp_path / "in.jsonl",
        {"id": "a", "prompt": PROMPT},
        {"prompt": "class A:\n", "max_new_tokens": 3, "temperature": 0.5, "seed": 7},
        "",
        {"prompt_token_ids": ids, "stop": text[6:9]},
    )
    out = tmp_path / "out.jsonl"
    assert run("--input", given, "--output", out, "--max-new-tokens", 24, "--batch-size", 2) == 0
    made = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert made[0]["id"] == "a" and made[0]["token_ids"] == new and "id" not in made[1]
    assert len(made[1]["token_ids"]) == 3
    assert made[2]["text"] == text[: text.index(text[6:9])] and made[2]["finish_reason"] == "stop"
    assert capsys.readouterr().out == "" and sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


BAD_LINES = [
    ("not json", "this is no JSON"),
    ("[1]", "no JSON object"),
    ('{"text": "a"}', "exactly one prompt is needed"),
    ('{"prompt": "a", "messages": []}', "prompt and messages"),
    ('{"prompt": 3}', "prompt is not usable"),
    ('{"prompt_token_ids": ["a"]}', "a list of ids"),
    ('{"prompt_token_ids": [99999]}', "an id that the model does not have"),
    ('{"prompt": ""}', "is empty"),
    ('{"prompt": "a", "temprature": 1}', "Did you mean 'temperature'?"),
    ('{"prompt": "a", "top_p": 3}', "top_p is not usable"),
    ('{"prompt": "a", "stop_strings": 3}', "wrong type"),
    ('{"prompt": "a", "seed": "x"}', "in.jsonl:2"),
    ('{"prompt": "a", "logits_processor": "x"}', "cannot stand in a file"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "chat template"),
]


@pytest.mark.parametrize("line, complaint", BAD_LINES)
def test_a_bad_line_is_named_before_anything_runs(tmp_path, capsys, monkeypatch, line, complaint):
    from anydraft.speculator import Speculator

    monkeypatch.setattr(Speculator, "generate", lambda *a, **k: pytest.fail("something ran"))
    given = lines_of(tmp_path / "in.jsonl", {"prompt": "a"}, line)
    assert run("--input", given, "--output", tmp_path / "out.jsonl") == 2
    shown = capsys.readouterr()
    assert f"{given}:2: " in shown.err and complaint in shown.err and "Traceback" not in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_all_bad_lines_are_named_at_once(tmp_path, capsys):
    given = lines_of(tmp_path / "in.jsonl", "x", {"prompt": "a"}, "y")
    assert run("--input", given) == 2
    shown = capsys.readouterr().err
    assert f"{given}:1: " in shown and f"{given}:3: " in shown and f"{given}:2: " not in shown


def test_an_old_output_survives_a_failure(tmp_path, capsys, monkeypatch):
    from anydraft.speculator import Speculator

    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    monkeypatch.setattr(Speculator, "generate", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("half-way")))
    with pytest.raises(RuntimeError, match="half-way"):
        cli.main(["generate", PROMPT, "--output", str(out)])
    assert out.read_text() == "old\n" and [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


# -- refusals --------------------------------------------------------------------------------------------------------

REFUSED = [
    ([], "exactly one of PROMPT and --input"),
    (["a", "--input", "nowhere.jsonl"], "exactly one of PROMPT and --input"),
    (["--input", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
    ([""], "empty"),
    (["a " * 3000], "longer than the model's context"),
    (["a", "--model", "/no/such/model"], "there is no folder '/no/such/model'"),
    (["a", "--method", "draft_modle"], "draft_model"),
    (["a", "--method", "nothing_like_it"], "nothing_like_it"),
    (["a", "--num-assistant-tokens", "many"], "num_assistant_tokens is not usable"),
    (["a", "--num-assistant-tokens", "-1"], "num_assistant_tokens is not usable"),
    (["a", "--temperature", "-1"], "temperature is not usable"),
    (["a", "--temperature", "nan"], "temperature is not usable"),
    (["a", "--max-new-tokens", "0"], "max_new_tokens is not usable"),
    (["a", "--stop", ""], "stop string is empty"),
    (["a", "--dtype", "bfloat"], "Did you mean 'bfloat16'?"),
    (["a", "--device", "nosuch"], "cannot use the device 'nosuch'"),
    (["a", "--option", "branching"], "NAME=VALUE"),
    (["a", "--option", "branching=abc"], "branching is not usable"),
    (["a", "--option", "brnching=3"], "branching"),
    (["a", "--option", "rule=match"], "Use --rule"),
    (["a", "--method", "token_recycling", "--option", "decay=fast"], "decay is not usable"),
    (["a", "--rule", "speculative_sampling", "--method", "token_recycling"], "cannot judge"),
    (["a", "--batch-size", "0"], "max_batch_size is not usable"),
    (["a", "--logprobs", "3"], "Add --json"),
    (["a", "--chat"], "chat template"),
    (["a", "--output", "/no/such/folder/out.jsonl"], "cannot be written"),
    (["a", "--max-new-tokens", "x"], "--max-new-tokens"),
    (["a", "--max-new-token", "3"], "--max-new-tokens"),
]


@pytest.mark.parametrize("arguments, complaint", REFUSED, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_what_cannot_work_is_one_message_and_exit_code_2(capsys, arguments, complaint):
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err and "Traceback" not in shown.err and shown.out == ""


# -- endings ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C arrives with the fifth token."""
    from anydraft.core.stopping import Stopping

    push = Stopping.push

    def pushed(self, *arguments):
        if len(self.ids) == 4:
            raise KeyboardInterrupt
        return push(self, *arguments)

    monkeypatch.setattr(Stopping, "push", pushed)


def test_ctrl_c_with_json_prints_what_there_is(capsys, interrupted, expected):
    assert run(PROMPT, "--max-new-tokens", 24, "--json", "--method", "none") == 130
    made = json.loads(capsys.readouterr().out)
    assert made["finish_reason"] == "interrupted" and made["token_ids"] == expected[1][:4]


def test_ctrl_c_leaves_an_output_file_as_it_was(tmp_path, capsys, interrupted):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    assert run(PROMPT, "--max-new-tokens", 24, "--output", out) == 130
    assert out.read_text() == "old\n" and [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def start(*arguments):
    code = "import sys; from anydraft.cli import main; main(sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", code, "generate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


LONG = (PROMPT, "--max-new-tokens", "900", "--method", "none", "--temperature", "1", "--seed", "1")


def test_a_real_interrupt_keeps_the_text_so_far_and_exits_130():
    process = start(*LONG)
    first = process.stdout.read(8)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(first) == 8 and rest.endswith("\n") and errors == ""


def test_a_closed_pipe_is_quiet():
    process = start(*LONG)
    process.stdout.read(1)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) in (0, 1) and errors == ""


def on_a_terminal(monkeypatch, *arguments):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with os.fdopen(theirs, "w") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert run(*arguments) == 0
        screen.flush()
        shown = os.read(ours, 65536)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_accepted_tokens_are_green_on_a_terminal(capsys, monkeypatch, expected):
    shown = on_a_terminal(monkeypatch, PROMPT, "--max-new-tokens", 24, "--num-assistant-tokens", 4)
    green = "".join(re.findall(r"\x1b\[32m(.*?)\x1b\[0m", shown, re.DOTALL))
    assert green and len(green) < len(expected[2])
    assert re.sub(r"\x1b\[\d+m", "", shown) == expected[2] + "\n"
    summary = capsys.readouterr().err
    assert "24 tokens" in summary and "tokens/s" in summary


def test_the_lookahead_that_a_parallel_schedule_chose_is_told_on_a_terminal(capsys, monkeypatch):
    on_a_terminal(monkeypatch, PROMPT, "--max-new-tokens", 8, "--schedule", "dsi")
    assert re.search(r"\[dsi with k \d+: measured", capsys.readouterr().err)


def test_no_color_is_plain_on_a_terminal(monkeypatch, expected):
    assert on_a_terminal(monkeypatch, PROMPT, "--max-new-tokens", 24, "--no-color") == expected[2] + "\n"


def test_values_of_options():
    assert command.named_value("a-b=1") == ("a_b", 1)
    assert command.named_value("flag=true") == ("flag", True)
    assert command.named_value("name=half") == ("name", "half")
    assert command.named_value("list=3,") == ("list", (3,))
