"""FR-Spec: exact at any share of the head; what may never be pruned stays."""

import bilingual as toy
import pytest
import torch

from anydraft.core.errors import BadOption, WrongVocabulary
from anydraft.drafters.fr_spec import FRSpec
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.vocabulary.statistics import save_mean_law


@pytest.mark.parametrize("keep_share", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("name", toy.COMMON)
def test_law(name, keep_share):
    mean = torch.arange(1.0, len(toy.PAIRS[name][0]) + 1)
    make = lambda: FRSpec(**toy.given(name), statistics=mean, keep_share=keep_share)  # noqa: E731
    assert toy.distance(name, make, SpeculativeSampling) < toy.EXACT


def test_needs_statistics_of_this_target(tmp_path):
    with pytest.raises(BadOption, match="calibrate"):
        FRSpec(**toy.given("half"))
    both = toy.aligner("half").intersection
    save_mean_law(tmp_path / "s.safetensors", torch.ones(4), both.target, 7)
    FRSpec(**toy.given("half"), statistics=str(tmp_path / "s.safetensors"))
    with pytest.raises(WrongVocabulary, match="another tokenizer"):
        FRSpec(**toy.given("several ids for one text"), statistics=str(tmp_path / "s.safetensors"))


def test_single_bytes_stay():
    kept = FRSpec(**toy.given("half"), statistics=torch.tensor([0.0, 0.0, 1.0, 1.0]), keep_share=0.01).shared.target_ids
    assert {0, 1} <= set(kept.tolist())
