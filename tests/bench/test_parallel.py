"""The wall-clock measurements of parallel schedules: honest waits, predictions, and the figures made of them."""

import time

import pytest

from anydraft.bench import parallel
from anydraft.bench.parallel import GRID, PROMPT, Cell, figures, prediction, row, run_cells, text, trace_of, waiting_target
from anydraft.core.messages import Open, Verify
from anydraft.parallel.worker import Scorer


def test_a_forward_never_takes_less_than_its_latency():
    scorer = Scorer(waiting_target())
    list(scorer.do(Open(0, parallel.Request(prompt=parallel.torch.tensor(PROMPT), max_new_tokens=8), 0)))
    for n in range(5):
        mark = time.perf_counter()
        scorer.score(Verify(n, 0, 0, 0, len(PROMPT), (), (1, 2)))
        assert time.perf_counter() - mark >= parallel.TARGET_S


def test_the_grid_is_the_one_that_was_asked_for():
    assert {c.draft_s for c in GRID} == {0.004, 0.010, 0.020} and {c.acceptance for c in GRID} == {0.5, 0.8, 0.95}
    assert min(c.replicas for c in GRID) == 1 and max(c.replicas for c in GRID) == 7


def test_the_prediction_is_of_this_text():
    cell = Cell(0.010, 0.8, 4)
    trace = trace_of(cell, 30)
    rejected = trace[:29].count(False)
    assert 0 < rejected < 15 and prediction(cell, 30)["si"] > prediction(cell, 30)["dsi"] >= rejected * parallel.TARGET_S


def test_a_cell_is_measured_and_its_text_checked(monkeypatch):
    cell = Cell(0.010, 0.8, 2)
    (record,) = run_cells("threads", [cell], tokens=12, repeats=2)
    assert len(record["spent"]["si"]) == len(record["spent"]["dsi"]) == 2
    assert all(seconds >= foretold - 1e-3 for name, foretold in record["predicted"].items() for seconds in record["spent"][name])
    assert row(record).count("|") == parallel.HEAD.splitlines()[0].count("|")
    monkeypatch.setattr(parallel, "text", lambda tokens: [*text(tokens)[:-1], -5])
    with pytest.raises(RuntimeError, match="another text"):
        run_cells("threads", [cell], tokens=4, repeats=1)


def test_figures_are_ratios_of_one_repetition_and_overheads_per_token():
    record = {"predicted": {"si": 2.0, "dsi": 1.0}, "spent": {"si": [2.1, 2.2, 2.3], "dsi": [1.1, 1.0, 1.2]}, "tokens": 10}
    made = figures(record)
    assert made["predicted"] == 2.0 and made["ratio"] == pytest.approx(2.3 / 1.2) and made["high"] == pytest.approx(2.2)
    assert made["overhead"] == pytest.approx(0.1 / 10 / parallel.TARGET_S) and made["overhead_high"] == pytest.approx(0.2 / 10 / parallel.TARGET_S)


def test_a_missed_goal_is_an_exit_code(monkeypatch, capsys):
    slow = {"draft_s": 0.01, "acceptance": 0.8, "accepted": 0.8, "replicas": 2, "k": 2, "tokens": 10, "predicted": {"si": 2.0, "dsi": 1.0}}
    for dsi, code in ((1.002, 0), (1.3, 1)):
        monkeypatch.setattr(parallel, "run_cells", lambda *a, dsi=dsi: [slow | {"spent": {"si": [2.0], "dsi": [dsi]}}])
        assert parallel.main(["waiting"]) == code
    assert "1 above 2%" in capsys.readouterr().out


@pytest.mark.slow
def test_the_bundled_pair_says_the_same_in_every_schedule(capsys, tmp_path):
    code = parallel.main(["pair", "--prompts", "1", "--max-new-tokens", "8", "--repeats", "1", "--trace", str(tmp_path / "trace.json")])
    said = capsys.readouterr().out
    assert code == 0 and "| dsi | yes |" in said and "| pearl | yes |" in said
    assert (tmp_path / "trace.json").read_text().count("true") + (tmp_path / "trace.json").read_text().count("false") == 8


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_random_weights_with_forced_acceptance_run_in_every_schedule(capsys, tmp_path, executor):
    """Workers of random weights are given names instead of weights, in processes."""
    asked = ["pair", "--prompts", "1", "--max-new-tokens", "8", "--repeats", "1", "--executor", executor, "--device", "cpu", "--dtype", "bfloat16"]
    asked += ["--model", "random:tiny", "--assistant-model", "random:tiny-draft", "--forced-acceptance", "1", "--json", str(tmp_path / "pair.json")]
    assert parallel.main(asked) == 0
    said = capsys.readouterr().out
    assert "acceptance forced 1, " in said and "1.00 of the drafts accepted" in said and "| dsi | yes |" in said and "| pearl | yes |" in said
    assert '"forced": "forced 1"' in (tmp_path / "pair.json").read_text()


def test_a_difference_is_a_tie_or_a_fault():
    from anydraft.bench.parallel_pair import table

    lines = table({"plain decoding": [1.0], "dsi": [2.0], "pearl": [2.0]}, {}, {"plain decoding": (0, 0), "dsi": (2, 1), "pearl": (1, None)}, (0.1, 0.1))
    assert "NO: 2 texts differ, 1 first at a tie" in lines[3] and "not examined" in lines[4] and len({line.count("|") for line in lines}) == 1
