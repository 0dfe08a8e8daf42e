"""Pruned heads and the files that hold them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from anydraft.core.errors import BadModel, BadOption
from anydraft.vocabulary.pruning import HeadStatistics, PrunedHead, prune, ranked, required_ids


@given(kept=st.sets(st.integers(0, 39), min_size=1))
@settings(max_examples=50, deadline=None)
def test_round_trip_of_the_two_forms(kept):
    head = PrunedHead(torch.tensor(sorted(kept)), 40)
    tensors = head.to_tensors()
    assert tensors["d2t"].dtype == torch.int64 and tensors["t2d"].dtype == torch.bool
    for row, offset in enumerate(tensors["d2t"].tolist()):  # the format's own rule
        assert bool(tensors["t2d"][row + offset]) and row + offset == int(head.ids[row])
    again = PrunedHead.from_tensors(tensors)
    assert torch.equal(again.ids, head.ids) and again.width == 40
    assert torch.equal(PrunedHead.from_tensors({"d2t": tensors["d2t"]}, width=40).ids, head.ids)


def test_round_trip_through_a_file(tmp_path):
    head = PrunedHead(torch.tensor([1, 4, 5, 9]), 12)
    weight = torch.randn(4, 3)
    head.save(tmp_path / "model.safetensors", {"lm_head.weight": weight})
    assert torch.equal(PrunedHead.load(tmp_path / "model.safetensors").ids, head.ids)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["lm_head.weight"], weight)
    assert head.rows().tolist() == [-1, 0, -1, -1, 1, 2, -1, -1, -1, 3, -1, -1]


def test_rows_in_any_order_are_read():
    mask = torch.tensor([True, False, True, True])
    head = PrunedHead.from_tensors({"d2t": torch.tensor([3, 1 - 2, 0]), "t2d": mask})
    assert head.ids.tolist() == [3, 0, 2] and head.rows().tolist() == [1, -1, 2, 0]


def test_damaged_maps_are_refused(tmp_path):
    mask = torch.tensor([False, True, True])
    with pytest.raises(BadModel, match="absolute ids"):
        PrunedHead.from_tensors({"d2t": torch.tensor([1, 2]), "t2d": mask})
    with pytest.raises(BadModel, match="different tokens"):
        PrunedHead.from_tensors({"d2t": torch.tensor([0, 0]), "t2d": mask})
    with pytest.raises(BadModel, match="no vocabulary map"):
        PrunedHead.from_tensors({"lm_head.weight": torch.zeros(1)})
    with pytest.raises(BadModel, match="not ids of its vocabulary"):
        PrunedHead(torch.tensor([0, 5]), 5)
    with pytest.raises(BadModel, match="no such file"):
        PrunedHead.load(tmp_path / "none.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(BadModel, match="full head"):
        PrunedHead.load(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("name", ["byte_bpe", "tiktoken_like", "spm_bpe", "unigram"])
@pytest.mark.parametrize("keep", [1.0, 0.75, 0.5, 0.25, 0.05])
def test_required_tokens_survive_every_share(families, corpus, name, keep):
    vocabulary = families.vocabulary(name)
    counted = HeadStatistics(vocabulary.width)
    counted.count(vocabulary.encode("".join(corpus).encode()).ids)
    required = required_ids(vocabulary, stops=[7])
    head = prune(counted.mean, keep, required)
    kept = set(head.ids.tolist())
    assert set(required.tolist()) <= kept and {*vocabulary.roles, 7} <= kept
    assert all(vocabulary.canonical_id(bytes([byte])) in kept for byte in b"\n \t0123456789aZ\xf0")
    assert len(head.ids) == max(round(keep * vocabulary.width), len(required))
    free = [id for id in ranked(counted.mean).tolist() if id not in set(required.tolist())]
    extra = [id for id in free if id in kept]
    assert extra == free[: len(extra)]  # the rest is the most frequent


def test_rank_by_mean_law_and_by_counts():
    laws = torch.softmax(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + torch.arange(6), -1)
    statistics = HeadStatistics(6)
    statistics.add(laws[:20])
    statistics.add(laws[20:].reshape(2, 15, 6))
    assert torch.allclose(statistics.mean, laws.double().mean(0)) and statistics.mean.dtype == torch.float64
    assert ranked(statistics.mean).tolist() == [5, 4, 3, 2, 1, 0]
    assert ranked(torch.tensor([0.0, 1.0, 1.0])).tolist() == [1, 2, 0]
    assert prune(torch.rand(8), keep=1e-9).ids.numel() == 1  # never an empty head
    with pytest.raises(BadOption):
        prune(torch.rand(8), keep=0.0)
