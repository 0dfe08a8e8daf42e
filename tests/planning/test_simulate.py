"""The simulator: worked by hand, against closed forms, and never slower than it must be."""

import subprocess
import sys

import pytest

from anydraft.core.errors import BadOption
from anydraft.planning.simulate import ALGORITHMS, PRESETS, cell, closed_form, drawn_trace, lookahead_for, replicas_needed, si, simulate


def done(trace, t=65.0):
    return [simulate(name, trace, 7.0, 1.0, 1, 7).done_by(t) for name in ALGORITHMS]


def test_the_worked_timeline():
    """t_target 7, t_draft 1, k 1, SP 7, at t = 65: plain 9, SI 16 at best and 8 at worst, DSI 59 and 9."""
    assert done([True] * 200)[:3] == [9, 16, 59]
    assert done([False] * 200)[:3] == [9, 8, 9]


@pytest.mark.parametrize("c", [0.05, 0.25, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, 0.99])
def test_dsi_is_never_slower_on_any_path(c, a):
    for k in (1, 2, 3, 5, 8, 13, 20):
        row = cell(c, a, k, 60, seed=int(100 * a) + k)
        assert row[6] <= min(row[4], row[5]) + 1e-9, row


def test_one_replica_is_not_enough_where_a_block_takes_as_long_as_a_verification():
    """The paper's rule asks for one there. The last block of a text is shorter, SI sends it at once, and DSI's one replica is still at the front."""
    paths = [drawn_trace(20, 0.85, seed) for seed in range(60)]
    spent = [(simulate("dsi", p, 1.0, 0.05, 20, 1).total, si(p, 1.0, 0.05, 20).total) for p in paths]
    assert any(dsi > blocking + 1e-9 for dsi, blocking in spent)
    assert all(simulate("dsi", p, 1.0, 0.05, 20, 2).total <= si(p, 1.0, 0.05, 20).total + 1e-9 for p in paths)


@pytest.mark.parametrize("a, c, k", [(0.6, 0.5, 2), (0.8, 0.1, 5), (0.9, 0.2, 3), (0.3, 0.1, 1), (0.95, 0.05, 10)])
def test_the_closed_form_with_the_early_test(a, c, k):
    trace = drawn_trace(10_000, a, 1)
    runs = [len(run) for run in "".join("x" if ok else "." for ok in trace).split(".")]
    rejections, blocks = len(runs) - 1, sum(-(-n // k) for n in runs)
    measured = simulate("dsi", trace, 1.0, c, k).total
    assert measured == pytest.approx(rejections + k * c * blocks, rel=0.01)  # the form's terms, counted on this very trace
    assert measured / len(trace) == pytest.approx(closed_form(a, c, k), rel=0.05 if a > 0.85 else 0.02)  # and in expectation


@pytest.mark.parametrize("a, c, k", [(0.6, 0.5, 2), (0.8, 0.1, 5)])
def test_si_takes_what_its_formula_says(a, c, k):
    tokens = 20_000
    assert si(drawn_trace(tokens, a, 1), 1.0, c, k).total / tokens == pytest.approx((1 - a) * (k * c + 1) / (1 - a ** (k + 1)), rel=0.01)


def test_replicas_and_lookahead_are_each_others_inverse():
    for c in (0.05, 0.1, 0.3, 1 / 3, 0.9):
        for sp in range(1, 9):
            k = lookahead_for(1.0, c, sp)
            if k * c < 1 - 1e-6:
                assert replicas_needed(1.0, c, k) <= sp
            assert k == 1 or replicas_needed(1.0, c, k - 1) > sp


def test_a_cancel_that_cannot_interrupt_costs_time_but_never_a_deadlock():
    trace = drawn_trace(300, 0.6, 2)
    prompt, late = (simulate("dsi", trace, 1.0, 0.2, 1, 5, preempt=p) for p in (True, False))
    assert late.total > prompt.total
    assert len(late.times) == len(prompt.times) == 300


def test_times_never_go_back_and_every_token_has_one():
    for name in ALGORITHMS:
        times = simulate(name, drawn_trace(100, 0.7, 5), 1.0, 0.3, 3).times
        assert len(times) == 100 and times == sorted(times)


@pytest.mark.parametrize("wrong", [{"draft_s": 2.0}, {"target_s": 0.0}, {"lookahead": 0}, {"replicas": 0}, {"algorithm": "dsy"}, {"trace": []}])
def test_what_means_nothing_is_refused(wrong):
    settings = {"algorithm": "dsi", "trace": [True], "target_s": 1.0, "draft_s": 0.5, "lookahead": 2, "replicas": 1} | wrong
    with pytest.raises(BadOption):
        simulate(**settings)


def test_only_a_simulation_needs_simpy():
    """It comes with an extra; decoding and the rule for replicas do without."""
    lines = ["import sys", "sys.modules['simpy'] = None", "import anydraft", "from anydraft.core.errors import BadOption"]
    lines += ["from anydraft.planning.simulate import lookahead_for, simulate", "assert lookahead_for(0.04, 0.004, 7) == 2"]
    lines += ["try: simulate('dsi', [True], 1.0, 0.5, 1)", "except BadOption as error: print(error)"]
    said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert "anydraft[plan]" in said


def test_presets_are_feasible():
    for preset in PRESETS.values():
        assert 0 < preset.draft_ms < preset.target_ms and 0 < preset.acceptance < 1
