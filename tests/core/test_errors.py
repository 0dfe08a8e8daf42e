"""Errors are one clear sentence, keep their parts, and survive a trip to another process."""

import pickle

import pytest

from anydraft.core import errors
from anydraft.core.errors import AnydraftError, BadOption, WrongVocabulary, nearest

TREE = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AnydraftError)]


def test_the_sentence_has_what_got_expected_and_next_step():
    error = BadOption("temperature is negative", got=-1, expected="a number >= 0", next_step="Use 0 for greedy decoding")
    assert str(error) == "temperature is negative (got: -1; expected: a number >= 0). Use 0 for greedy decoding."
    assert (error.what, error.got, error.expected) == ("temperature is negative", -1, "a number >= 0")


def test_parts_left_out_leave_no_trace_and_zero_is_not_left_out():
    assert str(BadOption("no prompt")) == "no prompt."
    assert str(BadOption("too small", got=0)) == "too small (got: 0)."
    assert str(BadOption("which one", next_step="Did you mean 'x'?")) == "which one. Did you mean 'x'?"


@pytest.mark.parametrize("kind", TREE)
def test_an_error_survives_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("what", got="a", expected="b", next_step="c")))
    assert type(error) is kind
    assert str(error) == "what (got: a; expected: b). c."


def test_every_error_is_in_the_drawn_tree_and_says_when():
    for kind in TREE:
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind is AnydraftError or (kind.__doc__ or "").startswith("Raised ")
    assert issubclass(WrongVocabulary, errors.WrongPair)


def test_nearest_ignores_case_and_separators_but_not_meaning():
    assert nearest("Prompt-Lookup", ["prompt_lookup", "suffix"]) == "prompt_lookup"
    assert nearest("max_token", ["temperature", "max_new_tokens"]) == "max_new_tokens"
    assert nearest("beam", ["temperature", "top_k"]) is None
