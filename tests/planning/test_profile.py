"""Costs are measured through the real parts, tables come back from disk, and files of other models are refused."""

import pytest
import torch
from toys import V, target

from anydraft import Speculator, zoo
from anydraft.cli import main
from anydraft.core.costs import Costs
from anydraft.core.errors import BadModel, BadOption, WrongPair
from anydraft.drafters.draft_model import DraftModel
from anydraft.engine.fingerprint import fingerprint
from anydraft.engine.table import TableModel
from anydraft.loading import load
from anydraft.planning.profile import Profile, costs, timed


class Slow(TableModel):
    """A table that takes its time: longer for more rows, like a model."""

    def score(self, context, draft):
        spin(0.002 + 0.001 * draft.nodes)
        return super().score(context, draft)

    def next(self, context):
        spin(0.001)
        return super().next(context)

    def grow(self, tokens, parent):
        spin(0.001)
        return super().grow(tokens, parent)


def spin(seconds):
    import time

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_costs_follow_the_parts():
    found = costs(Slow(V, seed=1), DraftModel(Slow(V, seed=2), V), torch.tensor([0, 1, 2]), widths=(1, 5, 9), repeats=5)
    assert found.measured and found.draft >= 0.001
    plain, wide = found.v(1), found.v(9)
    assert plain >= 0.002 and wide - plain > 0.004  # eight nodes of a millisecond each, on a machine that may be busy


def test_verification_never_gets_cheaper_with_more_tokens():
    found = costs(target(), DraftModel(target(2), V), torch.tensor([0, 1]), repeats=1)
    seconds = [s for _, s in found.verify]
    assert seconds == sorted(seconds)


def test_timed_runs_interleave():
    order = []
    timed([lambda: order.append("a"), lambda: order.append("b")], 2)
    assert order == ["a", "b"] * 3


def test_interpolation_and_extrapolation():
    made = Costs(draft=0.1, verify=((1, 1.0), (5, 2.0), (9, 2.0)))
    assert made.v(3) == 1.5 and made.v(1) == 1.0 and made.v(20) == 2.0 and made.v(2, batch=4) == 2.0
    assert made.more(0) == pytest.approx(0.1 + 0.25) and Costs(draft=0.0, verify=((1, 3.0),)).v(50) == 3.0


def test_best_equals_brute_force():
    made = Costs(draft=0.07, verify=((1, 1.0), (4, 1.1), (17, 2.2)), start=0.02)
    curve = [0.9, 0.7, 0.6, 0.3, 0.25, 0.1, 0.05, 0.01]
    rates = [(1 + sum(curve[:k])) / made.step(k) for k in range(9)]
    assert made.best(curve) == (rates.index(max(rates)), pytest.approx(max(rates)))


def test_a_profile_comes_back_and_checks_its_models(tmp_path):
    tables = [{"context": c, "batch": b, "costs": Costs(draft=c, verify=((b, 1.0),)).as_dict()} for c in (64, 512) for b in (1, 4)]
    Profile({"target": "aa", "drafter": "bb"}, {}, tables).save(tmp_path / "p.json")
    made = Profile.load(tmp_path / "p.json")
    assert made.at(500, 4).draft == 512 and made.at(500, 4).verify == ((4, 1.0),)
    made.check({"target": "aa"})
    with pytest.raises(WrongPair, match="another target"):
        made.check({"target": "zz"})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "models": {}, "machine": {}, "tables": [], "method": "", "acceptance": []}']
)
def test_files_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(BadModel):
        Profile.load(tmp_path / "p.json")


def test_costs_that_are_none_are_refused():
    for held in ({}, {"draft_s": 1}, {"draft_s": 1, "verify_s": []}, {"draft_s": -1, "verify_s": [[1, 1]]}, {"draft_s": "x", "verify_s": [[1, 1]]}):
        with pytest.raises(BadOption):
            Costs.from_dict(held)


def test_a_speculator_believes_a_profile_of_its_models_and_no_other(tmp_path):
    pair = [load(str(zoo.path(name))) for name in ("target", "draft-bpe")]
    models = dict(zip(("target", "drafter"), (fingerprint(model) for model, _ in pair)))
    known = Costs(draft=0.25, verify=((1, 1.0), (9, 1.5)))
    made = Profile(models, {}, [{"context": 64, "batch": 1, "costs": known.as_dict()}])
    made.save(tmp_path / "p.json")
    (target, tokenizer), (drafter, _) = pair
    ours = Speculator(target, tokenizer, drafter, profile=tmp_path / "p.json")
    assert [(m.costs, m.measured) for m in ours.parts().control.members] == [(known, {1: known})]
    both = Speculator(target, tokenizer, [drafter, "prompt_lookup"], profile=made)
    assert [m.measured for m in both.parts().control.members] == [{1: known}, None]
    with pytest.raises(WrongPair, match="another drafter"):
        Speculator(target, tokenizer, drafter, profile=Profile(models | {"drafter": "00"}, {}, made.tables))


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--control", "disco", "--temperature", "1"], 2, "another temperature"),
        (["--control", "disco", "--temperature", "1", "--force"], 0, ""),
        (["--plan", "plan.json", "--method", "tli"], 2, "--plan says"),
        (["--profile", "missing.json"], 2, "cannot be read as a profile"),
    ],
)
def test_the_command_refuses_what_was_made_for_something_else(arguments, code, says, capsys, recwarn):
    with pytest.raises(SystemExit) as end:
        main(["generate", "import os", "--max-new-tokens", "4", *arguments])
    assert end.value.code == code and says in capsys.readouterr().err
    assert code or any("another temperature" in str(warning.message) for warning in recwarn)
