"""Prompt lookup: the index against a search by eye, also while the text grows and is revised."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import EXACT, RULES, ask, distance, target

from anydraft.control.fixed import Fixed
from anydraft.core.records import Context, Size
from anydraft.drafters.prompt_lookup import PromptLookup


def by_eye(ids, k, longest=4, shortest=1):
    """What followed the latest earlier occurrence of the longest suffix that occurs."""
    for n in range(longest, shortest - 1, -1):
        for start in range(len(ids) - n - 1, -1, -1):
            if len(ids) > n and ids[start : start + n] == ids[-n:]:
                return ids[start + n : start + n + k]
    return []


def looked_up(drafter, context, k):
    room = torch.full((context.size,), k)
    draft = drafter.propose(context, Size(depth=room, nodes=room), None)
    return [draft.tokens[b][draft.live[b]].tolist() for b in range(context.size)] if draft.nodes else [[]] * context.size


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.lists(st.integers(0, 3), max_size=10), st.integers(1, 4), st.integers(1, 4))
def test_growing_text_is_searched_as_by_eye(prompt, new, k, longest):
    drafter = PromptLookup(max_matching_ngram_size=longest)
    context = Context.start([ask(50, prompt=prompt)])
    for token in [None, *new]:
        if token is not None:
            context.ids[0, context.length[0]] = token
            length = context.length + 1
            context = dataclasses.replace(context, length=length, committed=length)
        assert looked_up(drafter, context, k) == [by_eye(context.row(0).tolist(), k, longest)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=9), st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=4))
def test_a_provisional_text_leaves_no_trace(prompt, guesses):
    """Parallel schedules ask about texts that may be revised: what was only guessed is not found later."""
    drafter, context = PromptLookup(), Context.start([ask(50, prompt=prompt)])
    for guess in guesses:
        found = looked_up(drafter, context.extended([guess]), 3)[0]
        text = [*prompt, *guess]
        assert found == text[len(text) - len(found) :] or found in [text[i : i + len(found)] for i in range(len(text))]
        assert looked_up(drafter, context, 3) == [by_eye(prompt, 3)]


def test_rows_keep_to_their_own_text():
    drafter = PromptLookup()
    context = Context.start([ask(9, prompt=[1, 2, 3, 1]), ask(9, prompt=[3, 1]), ask(9, prompt=[1, 1, 1])])
    assert looked_up(drafter, context, 2) == [[2, 3], [], [1]]
    assert looked_up(drafter, context.keep_rows([2, 0]), 2) == [[1], [2, 3]]


def test_a_slot_that_is_used_again_starts_afresh():
    drafter = PromptLookup()
    assert looked_up(drafter, Context.start([ask(9, prompt=[1, 2, 1])]), 1) == [[2]]
    assert looked_up(drafter, Context.start([ask(9, prompt=[0, 1])]), 1) == [[]]


def test_the_shortest_suffix_is_an_option():
    context = Context.start([ask(9, prompt=[1, 2, 0, 2])])
    assert looked_up(PromptLookup(), context, 2) == [[0, 2]]
    assert looked_up(PromptLookup(min_matching_ngram_size=2), context, 2) == [[]]


@pytest.mark.proof
@pytest.mark.parametrize("rule", ["match", "speculative_sampling", "block_verification", "recursive_rejection"])
def test_the_law_is_kept(rule):
    request = ask(5, prompt=(0, 1, 2, 0, 1))
    assert distance(lambda: (target(), PromptLookup(), RULES[rule](), Fixed(3)), request) < EXACT
