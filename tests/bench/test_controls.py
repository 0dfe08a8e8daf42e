"""The table of controls: modelled seconds are the counts' own, the oracle drafts what stands, and a run goes on where it was."""

import json

import pytest

from anydraft.bench import controls, never_slower
from anydraft.bench.controls import BESIDE, Count, main, page, seconds
from anydraft.core.costs import Costs

COSTS = Costs(draft=0.1, verify=((1, 1.0), (11, 2.0)), start=0.05)


def test_seconds_are_those_of_the_counts():
    made = Count(2)
    made.emitted, made.taken = [6, 4], [[(2, 2), (0, 0)], [(0, 3)]]
    assert seconds(COSTS, 2, 2) == pytest.approx(COSTS.step(2)) and seconds(COSTS, 0, 3) == pytest.approx(1.3)  # what copies pays no draft
    assert made.speedup(COSTS) == pytest.approx(10 / (1.2 + 0.25 + 1.0 + 1.3)) and made.speedup(COSTS, [1]) == pytest.approx(4 / 1.3)
    assert made.levels == 2


def test_a_small_table_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(controls, "SWEEP", (1, 3))
    (tmp_path / "costs.json").write_text(json.dumps(COSTS.as_dict()))
    arguments = ["--prompts", "2", "--max-new-tokens", "12", "--temperature", "0", "--suite", "code completion", "--costs", str(tmp_path / "costs.json")]
    assert main([*arguments, "--json", str(tmp_path / "t.json")]) == 0
    rows = json.loads((tmp_path / "t.json").read_text())["tables"]["code completion, temperature 0"]
    assert {"oracle", "heuristic", "survival", "auto", "disco", "bandit ucb", BESIDE} <= rows.keys()
    alone = {name: row["speedup"] for name, row in rows.items() if name != BESIDE}
    assert rows["oracle"]["of_oracle"] == 1.0 and max(alone, key=alone.__getitem__) == "oracle"
    monkeypatch.setattr(controls, "table", None)  # nothing is run again
    assert main([*arguments, "--json", str(tmp_path / "t.json")]) == 0
    assert page("code completion, temperature 0", rows) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments[2:], "--json", str(tmp_path / "t.json")])


def test_never_slower_holds_plain_decoding_against_a_bare_loop(tmp_path, capsys):
    code = never_slower.main(["--pairs", "2", "--max-new-tokens", "12", "--case", "bare loop", "--json", str(tmp_path / "n.json")])
    held = json.loads((tmp_path / "n.json").read_text())["plain decoding, against a bare loop"]
    assert code in (0, 1) and len(held["wall"]) == 2 and 0.2 < held["median"] < 5


def test_the_bare_loop_decodes_what_plain_decoding_does():
    target, tokenizer, made = never_slower.cases()
    prompt = "import os\n\n\ndef "
    ours = made["several drafters"]().generate(prompt, max_new_tokens=12, ignore_eos=True).token_ids
    assert never_slower.BareLoop(target, tokenizer).generate(prompt, 12) == ours
