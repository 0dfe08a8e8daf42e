"""`anydraft verify --all`: which cells there are, that a stopped run loses none, and a table that hides nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from anydraft.bench.store import Store
from anydraft.cli import _verify_all, main
from anydraft.cli._verify_all import BEGIN, END, Cell, as_it_must, cells, markdown, verify_all
from anydraft.core.errors import BadOption, WrongVocabulary
from anydraft.testing.verify import Check, Plan, Report


def pair(drafter, same):
    return SimpleNamespace(target_name="target", drafter_name=drafter, drafter=object() if drafter else None, same_vocabulary=same)


def report(passed, name="x"):
    comparison = {"p_value": 0.25}
    details = {"texts": 1448, "drafted": 9, "accepted": 4, "speculative": comparison, "null": comparison}
    greedy = {"prompts": 8, "drafted": 7, "accepted": 3, "divergences": [{}]}
    checks = (Check("greedy", True, "fine", greedy), Check("greedy control", True, "caught"), Check("sampling", passed, "law", details))
    return Report(name, checks)


@pytest.fixture
def quick(monkeypatch):
    """Loads no model; `examined` collects what was asked."""
    monkeypatch.setattr("anydraft.bench.pairs.Pair.load", lambda target, drafter, **_: pair(drafter, True))
    monkeypatch.setattr(_verify_all, "cells", lambda pairs: [Cell("target", "d", "tli", t) for t in (0.0, 1.0)] + [
        Cell("target", "d", "slrs", 0.0), Cell("target", "d", "tli", 1.0, "residual_skipped")])  # fmt: skip
    examined = []

    def examine(place, parts, options, plan, plant, prompts):
        examined.append((parts["method"], options["temperature"], options["top_p"], plant))
        if parts["method"] == "slrs":
            raise WrongVocabulary("too many ways")
        return report(plant is None)

    return SimpleNamespace(examine=examine, examined=examined)


PLACES = [("target", "d", None, None)]


def test_every_method_that_fits_and_plain_decoding_at_three_temperatures():
    made = cells([pair("bpe", True), pair("spm", False)])
    own = {(c.drafter, c.method) for c in made if not c.plant}
    assert {("bpe", m) for m in ("none", "draft_model", "prompt_lookup", "token_recycling", "auto")} <= own
    assert {("spm", m) for m in ("tli", "slem", "tli_slem", "union", "rdk", "fr_spec", "slrs", "auto")} <= own
    assert ("spm", "prompt_lookup") not in own and ("bpe", "tli") not in own  # no drafter changes the one, no vocabulary fits the other
    assert all({c.temperature for c in made if (c.drafter, c.method) == who and not c.plant} == {0.0, 0.7, 1.0} for who in own)
    assert [c.plant for c in made if c.plant] == list(_verify_all.PLANTS) and len(_verify_all.PLANTS) >= 5
    assert {c.method for c in cells([pair("spm", False)]) if c.plant} == {"tli"}  # the plants find a home on any pair


def test_a_stopped_run_goes_on_and_nothing_is_run_twice(quick, tmp_path, capsys):
    stopped = SimpleNamespace(left=2)

    def killed(*asked):
        if not stopped.left:
            raise KeyboardInterrupt
        stopped.left -= 1
        return quick.examine(*asked)

    with pytest.raises(KeyboardInterrupt):
        verify_all(PLACES, Plan(), None, tmp_path, None, killed)
    assert "2 of 2 cells passed" in (tmp_path / "verified.md").read_text()
    assert verify_all(PLACES, Plan(), None, tmp_path, None, quick.examine)
    assert quick.examined == [("tli", 0.0, 1.0, None), ("tli", 1.0, 0.9, None), ("slrs", 0.0, 1.0, None), ("tli", 1.0, 0.9, "residual_skipped")]
    assert verify_all(PLACES, Plan(), None, tmp_path, None, quick.examine) and len(quick.examined) == 4
    assert "2 of 2 cells passed, 1 were refused with a reason; 1 of 1 planted mistakes failed" in capsys.readouterr().out


def test_the_table_says_what_was_seen_and_stands_in_the_page(quick, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    verify_all(PLACES, Plan(), None, tmp_path / "out", page, quick.examine)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{END}\n\nafter\n") and "old" not in text
    assert "| target + d | tli | 1 | passes | 7/8 (1) | 0.25 | 0.25 | 1448 | 9 / 4 | caught |" in text
    assert "| residual_skipped | tli | 1 | fails, as it must | sampling |" in text
    assert "* slrs on target + d: refused. WrongVocabulary: too many ways" in text


@pytest.mark.parametrize("outcome, plant, good", [
    ("passed", None, True), ("failed", None, False), ("refused", None, True), ("failed", "p", True), ("passed", "p", False), ("refused", "p", False),
])  # fmt: skip
def test_methods_must_pass_and_mistakes_must_fail(tmp_path, outcome, plant, good):
    store = Store(tmp_path / "v.jsonl", {"plan": asdict(Plan()), "top_p": 0.9})
    store.add("machine", processor="P", threads=1, cores=2, device="cpu", torch="2", transformers="5")
    told = None if outcome == "refused" else json.loads(json.dumps(report(outcome == "passed").as_dict()))
    line = {"cell": "this one", **asdict(Cell("t", "d", "tli", 1.0, plant)), "outcome": outcome, "verdict": "said so", "report": told}
    line |= {"seconds": 3.0, "source": "s"}
    assert as_it_must(line) == good and ("**this one**: said so" in markdown(store, [line])) == (not good)


@pytest.mark.parametrize("arguments, said", [
    (("--all",), "Add --out FOLDER"),
    (("--all", "--out", "x", "--method", "tli", "--temperature", "1"), "does not take --method, --temperature"),
    (("--out", "x"), "for --all"),
    (("--all", "--out", "x", "--page", "nowhere.md"), "no place for the table"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(["verify", *arguments])
    assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.fixture
def side_by_side(quick, monkeypatch):
    """Processes are played by threads, which see the fixture."""
    monkeypatch.setattr(_verify_all, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    monkeypatch.setattr(_verify_all.torch, "set_num_threads", lambda n: None)
    return quick


def test_cells_side_by_side_are_all_kept(side_by_side, tmp_path):
    assert verify_all(PLACES, Plan(), None, tmp_path, None, side_by_side.examine, jobs=3)
    assert len(side_by_side.examined) == 4
    assert verify_all(PLACES, Plan(), None, tmp_path, None, side_by_side.examine, jobs=3) and len(side_by_side.examined) == 4


def test_a_process_that_was_ended_is_said_so_and_loses_only_its_cell(side_by_side, tmp_path):
    def examine(place, parts, options, plan, plant, prompts):
        if plant:
            raise BrokenProcessPool("terminated abruptly")
        return side_by_side.examine(place, parts, options, plan, plant, prompts)

    with pytest.raises(BadOption, match="ended from outside"):
        verify_all(PLACES, Plan(), None, tmp_path, None, examine, jobs=1 + 1)
    assert verify_all(PLACES, Plan(), None, tmp_path, None, side_by_side.examine, jobs=2)
    assert len(side_by_side.examined) <= 4 + 3


@pytest.mark.parametrize("arguments, says", [(["--jobs", "2"], "--jobs"), (["--all", "--out", "x", "--jobs", "0"], "--jobs is not usable")])
def test_jobs_that_cannot_be(arguments, says, capsys):
    with pytest.raises(SystemExit) as end:
        main(["verify", *arguments])
    assert end.value.code == 2 and says in capsys.readouterr().err
