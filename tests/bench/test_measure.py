"""The arithmetic of the comparison on contenders whose times are known, and identity on contenders that are known to differ."""

import pytest

from anydraft.bench.measure import Job, Measurement, Outcome, first_difference, measure_round, paired_ratio, rotated, warm_up
from anydraft.core.errors import BadModel


class Fake:
    """Takes what it is told to take and says what it is told to say."""

    system = "fake"

    def __init__(self, name, seconds=1.0, tokens=((1, 2, 3),), error=None):
        self.name, self.seconds, self.tokens, self.error, self.jobs = name, seconds, [list(t) for t in tokens], error, []

    def run(self, job):
        self.jobs.append(job)
        if self.error:
            raise self.error
        return Outcome(self.tokens, self.seconds, 0.1, {"steps": 1})


JOB = Job("p0", [[5, 6]], 16)


def measured(*rows):
    return [Measurement(c, "x", job, rep, session, seconds=s, tokens=t) for c, job, rep, session, s, t in rows]


def test_every_contender_takes_every_place():
    names = list("abcd")
    places = {name: {rotated(names, turn).index(name) for turn in range(8)} for name in names}
    assert all(seen == {0, 1, 2, 3} for seen in places.values())


def test_identity_is_against_the_reference_wherever_it_ran():
    good, bad, short = Fake("good"), Fake("bad", tokens=((1, 9, 3),)), Fake("short", tokens=((1, 2),))
    for repetition in range(4):
        found = {m.contender: m for m in measure_round([Fake("ref"), good, bad, short], JOB, repetition, 0, reference="ref")}
        assert (found["good"].same, found["bad"].same, found["short"].same) == (True, False, False)
        assert (found["bad"].diverged, found["short"].diverged) == ([1], [2])


def test_sampling_is_not_compared():
    job = Job("p0", [[5]], 4, temperature=1.0)
    assert all(m.same is None for m in measure_round([Fake("ref"), Fake("b", tokens=((7,),))], job, 0, 0, reference="ref"))


@pytest.mark.parametrize("error", [RuntimeError("first line\nsecond"), BadModel("no such model"), KeyError("x")])
def test_an_error_is_a_row(error):
    rows = list(measure_round([Fake("ref"), Fake("broken", error=error)], JOB, 0, 0, reference="ref"))
    broken = next(m for m in rows if m.contender == "broken")
    assert broken.error.startswith(type(error).__name__) and "second" not in broken.error
    assert broken.same is None and paired_ratio(rows, "broken", "ref") is None


def test_warm_up_is_short_and_reports_errors(monkeypatch):
    monkeypatch.setattr("anydraft.bench.measure.WARM_TOKENS", 8)
    fine, broken = Fake("fine"), Fake("broken", error=ValueError("no"))
    assert warm_up([fine, broken], JOB) == {"broken": "ValueError: no"}
    assert fine.jobs[0].max_new_tokens == 8


def test_the_ratio_is_of_tokens_per_second():
    # twice the tokens in the same time on both prompts: exactly 2, with no width
    rows = measured(("base", "a", 0, 0, 2.0, 10), ("own", "a", 0, 0, 2.0, 20), ("base", "b", 0, 0, 4.0, 10), ("own", "b", 0, 0, 4.0, 20))
    assert paired_ratio(rows, "own", "base") == (2.0, 2.0, 2.0, 2)


def test_rounds_of_different_sessions_are_not_paired():
    rows = measured(("base", "a", 0, 0, 1.0, 10), ("own", "a", 0, 1, 1.0, 10))
    assert paired_ratio(rows, "own", "base") is None


def test_a_drift_that_meets_both_cancels():
    """The machine is ten times slower in the second round; the ratio does not notice."""
    rows = measured(("base", "a", 0, 0, 3.0, 10), ("own", "a", 0, 0, 1.0, 10), ("base", "b", 1, 0, 30.0, 10), ("own", "b", 1, 0, 10.0, 10))
    assert paired_ratio(rows, "own", "base").value == pytest.approx(3.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """200 experiments of 24 prompts with a true ratio of 2: an interval that is too narrow or too wide would show here."""
    import numpy as np

    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        noise = rng.lognormal(0, 0.3, 24)
        rows = measured(*[r for n, e in enumerate(noise) for r in (("base", f"p{n}", 0, 0, 2.0, 10), ("own", f"p{n}", 0, 0, float(e), 10))])
        ratio = paired_ratio(rows, "own", "base", draws=400)
        hits += ratio.low <= 2 / np.exp(0.045) <= ratio.high
    assert 0.86 <= hits / 200 <= 0.99


def test_first_difference_sees_lengths():
    assert first_difference([], []) == -1 and first_difference([1], []) == 0
