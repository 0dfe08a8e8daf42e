"""A Speculator with a parallel schedule: the same tokens on the bundled pair, its report, and what it refuses."""

import pytest

from anydraft import Speculator, zoo
from anydraft.core.errors import BadOption, UnknownMethod


def load(**options) -> Speculator:
    return Speculator.from_pretrained(zoo.path("target"), assistant_model=zoo.path("draft-bpe"), **options)


@pytest.mark.parametrize("schedule", ["dsi", "pearl"])
def test_the_bundled_pair_gives_the_tokens_of_the_sequential_schedule(schedule):
    prompts = ["import os\n", "def main():"]
    expected = load(num_assistant_tokens=3).generate(prompts, max_new_tokens=16)
    with_workers = load(schedule=schedule, num_assistant_tokens=3)
    try:
        found = with_workers.generate(prompts, max_new_tokens=16)
    finally:
        with_workers.close()
    assert [g.token_ids for g in found] == [g.token_ids for g in expected]
    told = found[0].metrics.as_dict()["schedule"]
    assert told["schedule"] == schedule and told["k"] == 3 and told["verifications"] > 0 and 0 <= told["idle_share"] <= 1


def test_a_drafter_with_another_vocabulary_drafts_in_parallel_too():
    options = {"assistant_model": zoo.path("draft-spm"), "method": "tli", "num_assistant_tokens": 3}
    expected = Speculator.from_pretrained(zoo.path("target"), **options).generate("import os\n", max_new_tokens=12)
    made = Speculator.from_pretrained(zoo.path("target"), schedule="dsi", **options)
    try:
        assert made.generate("import os\n", max_new_tokens=12).token_ids == expected.token_ids
    finally:
        made.close()


@pytest.mark.parametrize(
    "options", [{"target_replicas": 2}, {"executor": "ray"}, {"schedule": "dsi", "executor": "fibers"}, {"schedule": "dsi", "target_replicas": 0},
                {"schedule": "dsi", "ray_address": "auto"}]
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(BadOption):
        load(**options)


def test_an_unknown_schedule_is_named():
    with pytest.raises(UnknownMethod, match="Did you mean 'dsi'"):
        load(schedule="dsy")
