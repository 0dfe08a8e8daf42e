"""`anydraft simulate`: what it prints, what it refuses, and the files of the grid."""

import csv
import json

import pytest

from anydraft.cli import main, simulate
from anydraft.planning.simulate import COLUMNS


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["simulate", *arguments])
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def test_the_json_says_what_was_simulated_and_that_it_is_modelled(capsys):
    flags = ["--target-latency", "40", "--draft-latency", "4", "--acceptance", "0.8", "--num-assistant-tokens", "5", "--target-replicas", "7"]
    code, out, _ = run(capsys, "dsi", *flags, "--tokens", "200", "--json")
    result = json.loads(out)
    assert code == 0 and result["kind"] == "modelled" and result["tokens"] == 200 and result["replicas_needed"] == 2
    assert result["seconds_per_token"] < 0.040


def test_a_trace_file_takes_the_place_of_acceptance(capsys, tmp_path):
    (path := tmp_path / "trace.json").write_text("[true, true, false, true]")
    result = json.loads(run(capsys, "plain", "--trace", str(path), "--json")[1])
    assert result["tokens"] == 4 and result["seconds"] == pytest.approx(0.160) and result["acceptance"] == 0.75


def test_presets_are_marked_quoted(capsys):
    assert "quoted" in run(capsys, "dsi", "--preset", "list")[1]
    result = json.loads(run(capsys, "dsi", "--preset", "vicuna-13b/68m alpaca", "--target-replicas", "7", "--tokens", "100", "--json")[1])
    assert result["preset"]["kind"] == "quoted" and result["kind"] == "modelled"


@pytest.mark.parametrize(
    "arguments", [["dsy"], ["grid"], ["dsi", "--acceptance", "2"], ["dsi", "--draft-latency", "50"], ["si", "--tokens", "0"], ["si", "--preset", "x"],
                  ["si", "--trace", "nowhere.json"], ["si", "--num-assistant-tokens", "0"], ["si", "--target-latency", "0"]]
)
def test_what_cannot_be_simulated_is_refused_in_one_line(capsys, arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.startswith("Error: ") and err.count("\n") == 1


def test_the_grid_writes_its_columns_and_four_maps(capsys, tmp_path, monkeypatch):
    module = __import__("sys").modules[simulate.__module__] if callable(simulate) else simulate
    monkeypatch.setattr(module, "CELLS", (2, 3, 2))
    code, out, _ = run(capsys, "grid", "--out", str(tmp_path), "--tokens", "30")
    assert code == 0 and "slower than min(SI, plain) in 0 of them" in out
    with (tmp_path / "grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 12
    assert len(list(tmp_path.glob("*.png"))) == 4
