"""The enumerator itself: weights sum to one, every run is visited once, and what it is meant to catch it catches."""

import itertools

import pytest
import torch
from toys import EXACT, Trees, ask, target

from anydraft.control.fixed import Fixed
from anydraft.core.law import Dense
from anydraft.core.records import Context, Draft
from anydraft.drafters.none import NoDraft
from anydraft.rules.match import Match
from anydraft.testing.exact import Enumerating, KeyedTwice, Script, exact_law, plain_law, total_variation


def visit(program):
    """All runs of program(script): (what it returned, weight)."""
    done, todo = [], [[]]
    while todo:
        script = Script(choices=list(todo.pop()))
        done.append((program(script), script.weight))
        todo += script.untried
    return done


def test_every_run_is_visited_once_with_its_probability():
    laws = [[0.5, 0.5], [0.2, 0.0, 0.8], [0.1, 0.2, 0.7]]
    runs = visit(lambda s: tuple(s.choose(law, n) for n, law in enumerate(laws)))
    expected = dict.fromkeys(itertools.product(range(2), (0, 2), range(3)), 1.0)
    for path in expected:
        for law, choice in zip(laws, path):
            expected[path] *= law[choice]
    assert len(runs) == len(expected) and dict(runs) == pytest.approx(expected)


def test_later_decisions_may_depend_on_earlier_ones():
    runs = visit(lambda s: s.choose([0.5, 0.5], 0) and s.choose([0.25, 0.75], 1) + 1)
    assert sorted(runs) == [(0, 0.5), (1, 0.125), (2, 0.375)]


def test_a_certain_decision_is_no_choice_point():
    assert visit(lambda s: s.choose([0.0, 1.0, 0.0], 0)) == [(1, 1.0)]


def test_a_decision_taken_twice_is_caught():
    with pytest.raises(KeyedTwice, match="taken twice"):
        visit(lambda s: (s.choose([0.5, 0.5], "a"), s.choose([0.5, 0.5], "a")))


def test_certain_decisions_are_keyed_too():
    """That two draws never differed in a toy does not make them two."""
    with pytest.raises(KeyedTwice):
        visit(lambda s: (s.choose([1.0], "a"), s.choose([0.5, 0.5], "a")))


def test_each_row_follows_its_own_script():
    scripts = [Script(choices=[2]), Script(choices=[0]), Script(choices=[1])]
    noise = Enumerating(scripts).at(Context.start([ask(3)] * 3))
    law, everyone = Dense(torch.full((3, 1, 3), 1 / 3, dtype=torch.float64)), torch.ones(3, dtype=torch.bool)
    assert noise.categorical(law, 0, everyone, "draft", 0).tolist() == [2, 0, 1]
    assert noise.bernoulli(torch.tensor([0.3, 1.0, 0.0]), everyone, "accept", 0).tolist() == [False, True, False]
    assert [s.weight for s in scripts] == pytest.approx([0.7 / 3, 1 / 3, 1 / 3])


def test_missing_mass_is_an_option_of_its_own():
    script = Script(choices=[2])
    noise = Enumerating([script]).at(Context.start([ask(3)]))
    law = Dense(torch.tensor([[[0.3, 0.5]]], dtype=torch.float64))
    assert noise.categorical(law, 0, torch.ones(1, dtype=torch.bool), "draft", 0, empty=True).tolist() == [-1]
    assert script.weight == pytest.approx(0.2)


def test_the_batch_size_changes_nothing():
    make = lambda: (target(), Trees([-1, -1], ["independent", "determined"]), Match(), Fixed(2))  # noqa: E731
    laws = [exact_law(make, ask(3), batch=batch) for batch in (1, 7, 512)]
    assert max(total_variation(laws[0], law) for law in laws) < EXACT


def test_total_variation():
    assert total_variation({(0,): 0.5, (1,): 0.5}, {(0,): 0.25, (2,): 0.75}) == pytest.approx(0.75)
    assert total_variation({(0,): 1.0}, {(0,): 1.0}) == 0.0


def test_outputs_of_unequal_length_are_told_apart():
    law = plain_law(target, ask(3, eos=frozenset({2})))
    assert {len(output) for output in law} == {1, 2, 3} and sum(law.values()) == pytest.approx(1)


def test_plain_decoding_never_drafts():
    assert NoDraft().propose(Context.start([ask(3)]), None, None).tokens.shape == Draft.empty(1).tokens.shape
