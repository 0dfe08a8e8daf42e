"""`anydraft verify` from the outside: exit codes, one line, JSON, and refusals before anything is loaded."""

import json

import pytest

from anydraft.cli import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["verify", *arguments])
    shown = capsys.readouterr()
    return end.value.code, shown.out, shown.err


def test_the_plants_are_listed_with_what_is_wrong(capsys):
    code, out, _ = run(capsys, "--plant", "list")
    assert code == 0 and len(out.splitlines()) >= 5 and "residual_skipped" in out and "Shows with" in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--effect", "0"), "--effect is not usable"),
        (("--false-alarm", "1.5"), "--false-alarm is not usable"),
        (("--samples", "2"), "--samples is not usable"),
        (("--plant", "residual_skiped"), "Did you mean 'residual_skipped'"),
        (("--model", "/no/such/folder"), "there is no folder"),
        (("--prompts", "nowhere.jsonl"), "no suite"),
        (("--method", "none", "--plant", "reused_coin"), "drafts nothing"),
        (("--method", "draft_modle"), "Did you mean 'draft_model'"),
        (("--method", "draft_model", "--assistant-model", "draft-spm"), "vocabular"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_message(capsys, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and said in err and "Traceback" not in err and out == ""


@pytest.mark.slow
def test_greedy_pass_and_planted_failure_on_the_bundled_pair(capsys):
    code, out, _ = run(capsys, "--method", "draft_model", "--json")
    told = json.loads(out)
    assert code == 0 and told["passed"] and told["verdict"].startswith("PASS draft_model") and len(told["checks"]) == 3
    code, out, _ = run(capsys, "--method", "draft_model", "--plant", "accepted_unseen")
    assert code == 1 and out.startswith("FAIL") and len(out.splitlines()) == 1 and "unexplained" in out
