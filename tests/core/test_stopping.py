"""Stopping: where a request ends and what its text is, with the bundled tokenizers and texts that tokens and characters do not divide evenly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from anydraft import zoo
from anydraft.core.records import Request
from anydraft.core.stopping import Stopping, TextStream

TEXTS = [
    "    return [line.strip() for line in lines]\n\n\ndef total(values):\n    pass\n",
    "naïve café — 25 € \u4f60\u597d 👍🏽 e\u0301",
    " leading and trailing ",
    "\ttabs\n\n\n  and   runs of   spaces",
]


@pytest.fixture(scope="module", params=["target", "draft-spm"])
def tokenizer(request):
    return AutoTokenizer.from_pretrained(zoo.path(request.param))


@pytest.fixture(scope="module")
def target_tokenizer():
    return AutoTokenizer.from_pretrained(zoo.path("target"))


def decoder(tokenizer):
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def ended(tokenizer, tokens, prompt="x = ", limit=10**9, **options):
    """A Stopping fed with these tokens until it ends."""
    stop = Stopping(Request(prompt=torch.tensor(ids_of(tokenizer, prompt)), max_new_tokens=10**6, **options), decoder(tokenizer))
    for n, token in enumerate(tokens):
        if stop.push(token, lambda: torch.tensor([[*stop.request.prompt.tolist(), *stop.ids]]), n + 1 >= limit):
            break
    return stop


def continued(tokenizer, prompt, new):
    """The ids of `new` as they come behind a prompt."""
    whole, before = ids_of(tokenizer, prompt + new), ids_of(tokenizer, prompt)
    return whole[len(before) :] if whole[: len(before)] == before else ids_of(tokenizer, new)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_text(tokenizer, text):
    decode, prompt = decoder(tokenizer), ids_of(tokenizer, "x = ")
    new = continued(tokenizer, "x = ", text)
    stream = TextStream(decode, prompt)
    pieces = [stream.push(token) for token in new] + [stream.flush()]
    assert "".join(pieces) == stream.text == decode(prompt + new)[len(decode(prompt)) :]
    assert not any("\ufffd" in piece for piece in pieces), "an incomplete character is held back"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab é€你👍\n "), max_size=20))
def test_any_text_streams_as_it_reads(text):
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("target"))
    stream, prompt, new = TextStream(decoder(tokenizer), ids_of(tokenizer, "x")), ids_of(tokenizer, "x"), ids_of(tokenizer, text)
    pieces = [stream.push(token) for token in new] + [stream.flush()]
    assert "".join(pieces) == decoder(tokenizer)(prompt + new)[1:]


def test_a_character_that_never_completes_is_shown_at_the_end(target_tokenizer):
    euro = ids_of(target_tokenizer, "€")
    assert len(euro) > 1, "or this proves nothing"
    stop = ended(target_tokenizer, [*ids_of(target_tokenizer, "5"), *euro[:-1]], limit=1 + len(euro) - 1)
    assert stop.finish == "length" and stop.text.startswith("5") and "\ufffd" in stop.text


@pytest.mark.parametrize("stop_string", ["def", "\n\n\ndef", "lines]\n", "ine in lin", "):\n    p", "strip() for line"])
@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_is_found_however_tokens_divide_it(tokenizer, stop_string, include):
    """`token_ids` keep the token that completes it; `text` ends in front of it, or behind it."""
    text = TEXTS[0]
    new = continued(tokenizer, "x = ", text)
    stop = ended(tokenizer, new, stop_strings=(stop_string,), include_stop_str_in_output=include)
    at = text.index(stop_string)
    expected = text[: at + len(stop_string)] if include else text[:at]
    assert stop.text.lstrip(" ") == expected.lstrip(" ") and (stop.finish, stop.stop_reason) == ("stop", stop_string)
    shown = ended(tokenizer, new[: len(stop.ids) - 1], stop_strings=(stop_string,))
    assert shown.finish is None, "it ends with the very token that completes the string, not one later"


def test_a_stop_string_in_the_prompt_does_not_count(target_tokenizer):
    stop = ended(target_tokenizer, continued(target_tokenizer, "x = stop", " here"), prompt="x = stop", stop_strings=("stop h", "= stop"))
    assert stop.finish is None


def test_the_stop_string_that_was_complete_first_wins(target_tokenizer):
    new = continued(target_tokenizer, "x = ", TEXTS[0])
    stop = ended(target_tokenizer, new, stop_strings=("values", "strip() for", "for line in lines"))
    assert stop.stop_reason == "strip() for"


def test_what_may_become_a_stop_string_is_held_back(tokenizer):
    text, stop_string = TEXTS[0], "\n\n\ndef total(v"
    new = continued(tokenizer, "x = ", text)
    stop = Stopping(Request(prompt=torch.tensor(ids_of(tokenizer, "x = ")), max_new_tokens=99, stop_strings=(stop_string,)), decoder(tokenizer))
    told = ""
    for token in new:
        finished = stop.push(token, lambda: None, False)
        told += stop.fresh_text()
        assert text.lstrip(" ")[: text.lstrip(" ").index(stop_string)].startswith(told.lstrip(" ")), "nothing of the stop string is ever shown"
        if finished:
            break
    assert told == stop.text and stop.finish == "stop"


def test_what_did_not_become_a_stop_string_is_told_later(target_tokenizer):
    new = continued(target_tokenizer, "x = ", "a\n\nb")
    stop = Stopping(Request(prompt=torch.tensor(ids_of(target_tokenizer, "x = ")), max_new_tokens=99, stop_strings=("\n\nc",)), decoder(target_tokenizer))
    pieces = []
    for n, token in enumerate(new):
        stop.push(token, lambda: None, n == len(new) - 1)
        pieces.append(stop.fresh_text())
    assert "".join(pieces) == stop.text == "a\n\nb"


@pytest.mark.parametrize("eos", [{7}, {7, 9}])
def test_every_id_of_the_eos_set_ends_the_text(target_tokenizer, eos):
    for token in eos:
        stop = ended(target_tokenizer, [20, 21, token, 22], eos=frozenset(eos))
        assert stop.ids == [20, 21, token] and (stop.finish, stop.stop_reason) == ("stop", token)
        assert stop.text == ended(target_tokenizer, [20, 21]).text, "the end token is no text"


def test_the_limit(target_tokenizer):
    stop = ended(target_tokenizer, [20, 21, 22], limit=2)
    assert stop.ids == [20, 21] and stop.finish == "length" and stop.stop_reason is None
    assert ended(target_tokenizer, [20, 7], limit=2, eos=frozenset({7})).finish == "stop", "a text that ends at its limit has ended"


class Watching:
    """A user's criterion that writes down what it is shown."""

    def __init__(self, stop_at=10**9):
        self.seen, self.stop_at = [], stop_at

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids.tolist())
        return torch.tensor([input_ids.shape[1] >= self.stop_at])


def test_criteria_see_every_token_once_in_order_as_one_row(target_tokenizer):
    first, second = Watching(), Watching(stop_at=3 + len(ids_of(target_tokenizer, "x = ")))
    stop = ended(target_tokenizer, [20, 21, 22, 23], stopping_criteria=(first, second))
    prompt = ids_of(target_tokenizer, "x = ")
    assert first.seen == second.seen == [[[*prompt, 20]], [[*prompt, 20, 21]], [[*prompt, 20, 21, 22]]]
    assert stop.ids == [20, 21, 22] and stop.finish == "stop"


def test_criteria_are_asked_about_the_last_token_too(target_tokenizer):
    watching = Watching()
    ended(target_tokenizer, [20, 7], eos=frozenset({7}), stopping_criteria=(watching,))
    assert len(watching.seen) == 2


def test_without_a_decoder_there_is_no_text_but_an_end():
    stop = Stopping(Request(prompt=torch.tensor([1]), max_new_tokens=9, eos=frozenset({3})))
    assert not stop.push(2, lambda: None, False) and stop.push(3, lambda: None, False)
    assert stop.text == "" and stop.finish == "stop"


@pytest.mark.parametrize("text", TEXTS)
def test_text_wanted_at_the_end_only_is_the_same(tokenizer, text):
    prompt, new = torch.tensor(ids_of(tokenizer, "x = ")), continued(tokenizer, "x = ", text)
    request = Request(prompt=prompt, max_new_tokens=99)
    both = [Stopping(request, decoder(tokenizer), incremental=incremental) for incremental in (True, False)]
    for stop in both:
        for n, token in enumerate(new):
            stop.push(token, lambda: None, n == len(new) - 1)
    assert both[0].text == both[1].text
