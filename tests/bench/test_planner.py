"""The planner's bench: halves that share no prompt, the choice against the best cell, and one small run of the whole."""

import json

import pytest

from anydraft.bench import planner
from anydraft.bench.planner import Cell, main, page, split, summary


def cell(k, predicted, measured, temperature=0.0):
    return Cell("d", "m", k, temperature, predicted, predicted - 0.1, predicted + 0.1, measured)


def test_no_prompt_is_on_both_sides():
    seen, fresh = split(8)
    assert len(set(seen)) == len(set(fresh)) == 8 and not set(seen) & set(fresh)


def test_errors_and_choices_are_those_of_the_cells():
    cells = [cell(1, 1.1, 1.0), cell(2, 1.5, 1.2), cell(4, 1.2, 1.5), cell(1, 0.8, 0.9, 1.0), cell(2, 0.9, 1.05, 1.0)]
    found = summary(cells)
    assert found["median_error"] == pytest.approx(0.9 / 1.05 * -1 + 1) and found["cells"] == 5
    assert found["choices"]["0"] == {"chosen": ("d", "m", 2), "best": ("d", "m", 4), "of_best": pytest.approx(0.8)}
    assert found["choices"]["1"]["chosen"] == ("none",) and found["choices"]["1"]["of_best"] == pytest.approx(1 / 1.05)
    text = page(cells, found)
    assert text.count("\n| d | m |") == 5 and "20.0% behind the best" in text


def test_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planner, "CANDIDATES", (("draft-bpe", "draft_model"), (None, "prompt_lookup")))
    monkeypatch.setattr(planner.compare, "__defaults__", (planner.CANDIDATES,))
    code = main(["--prompts", "2", "--max-new-tokens", "24", "--repeats", "1", "--temperature", "0", "--json", str(tmp_path / "p.json")])
    held = json.loads((tmp_path / "p.json").read_text())
    assert code in (0, 1) and held["cells"] == 8 and held["median_error"] < 1.0
    assert "| draft-bpe | draft_model | 8 | 0 |" in capsys.readouterr().out
