"""Other engines' names mean what ours mean, and two names for one thing must agree."""

import pytest

from anydraft import Speculator, zoo
from anydraft.aliases import Named, resolve
from anydraft.core.errors import BadModel, BadOption, UnknownMethod, UnknownOption

MODEL = object()


@pytest.mark.parametrize(
    "options, named",
    [
        ({}, Named(None, "auto", "auto", {})),
        ({"draft_model": MODEL}, Named(MODEL, "auto", "auto", {})),
        ({"num_speculative_tokens": 4}, Named(None, "auto", 4, {})),
        ({"prompt_lookup_num_tokens": 6}, Named(None, "prompt_lookup", 6, {})),
        ({"prompt_lookup_num_tokens": None}, Named(None, "auto", "auto", {})),
        ({"speculative_config": None}, Named(None, "auto", "auto", {})),
        ({"speculative_config": {"model": MODEL, "num_speculative_tokens": 3}}, Named(MODEL, "auto", 3, {})),
        ({"speculative_config": {"model": "ngram", "num_speculative_tokens": 3}}, Named(None, "prompt_lookup", 3, {})),
        (
            {"speculative_config": {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 5}},
            Named(None, "prompt_lookup", "auto", {"max_matching_ngram_size": 5, "min_matching_ngram_size": 2}),
        ),
        ({"branching": (2, 1)}, Named(None, "auto", "auto", {"branching": (2, 1)})),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_each_name_lands_where_it_belongs(options, named):
    assert resolve(None, "auto", "auto", options) == named


def test_saying_the_same_twice_is_no_contradiction():
    config = {"method": "ngram", "num_speculative_tokens": 4, "model": None}
    assert resolve(None, "prompt_lookup", 4, {"num_speculative_tokens": 4, "speculative_config": config}).num_assistant_tokens == 4
    assert resolve(MODEL, "auto", "auto", {"draft_model": MODEL}).assistant_model is MODEL


@pytest.mark.parametrize(
    "given, options, says",
    [
        ((None, "auto", 5), {"num_speculative_tokens": 4}, "num_assistant_tokens and num_speculative_tokens say different things .got: 5 and 4"),
        ((object(), "auto", "auto"), {"draft_model": MODEL}, "assistant_model and draft_model"),
        ((None, "draft_model", "auto"), {"prompt_lookup_num_tokens": 4}, "'draft_model' and 'prompt_lookup'"),
        ((None, "auto", "auto"), {"num_speculative_tokens": 4, "prompt_lookup_num_tokens": 3}, "num_speculative_tokens and prompt_lookup_num_tokens"),
        ((None, "auto", "auto"), {"max_matching_ngram_size": 3, "speculative_config": {"prompt_lookup_max": 2}}, "prompt_lookup_max"),
        ((None, "auto", 7), {"speculative_config": {"num_speculative_tokens": 2}}, "7 and 2"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(given, options, says):
    with pytest.raises(BadOption, match=says):
        resolve(*given, options)


def test_a_strange_configuration_is_refused():
    with pytest.raises(UnknownOption, match="Did you mean 'num_speculative_tokens'"):
        resolve(None, "auto", "auto", {"speculative_config": {"num_speculativ_tokens": 3}})
    with pytest.raises(BadOption, match="dictionary"):
        resolve(None, "auto", "auto", {"speculative_config": "ngram"})


def test_a_speculator_takes_them():
    ours = Speculator.from_pretrained(zoo.path("target"), speculative_config={"model": str(zoo.path("draft-bpe")), "num_speculative_tokens": 3})
    one = ours.generate("import os", max_new_tokens=8)
    assert one.metrics.method == "draft_model" and max(one.metrics.per_step_drafted) == 3
    lookup = Speculator(ours.model, ours.tokenizer, prompt_lookup_num_tokens=2)
    one = lookup.generate("import os\nimport os\nimport", max_new_tokens=8)
    assert one.metrics.method == "prompt_lookup" and max(one.metrics.per_step_drafted) == 2
    assert Speculator(ours.model, ours.tokenizer, draft_model=ours.assistant_model).generate("a", max_new_tokens=2).metrics.method == "draft_model"
    with pytest.raises(UnknownMethod):
        Speculator(ours.model, ours.tokenizer, speculative_config={"method": "eagle99"})
    with pytest.raises(BadModel, match="from_pretrained"):
        Speculator(ours.model, ours.tokenizer, draft_model=str(zoo.path("draft-bpe")))
