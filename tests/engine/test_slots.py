"""Slots: what is written is read back, rows move, paths are gathered, growth keeps what is held, padding is nobody's."""

import pytest
import torch

from anydraft.engine.slots import BUCKET, Plan, SlotCache, bucket

CPU = torch.device("cpu")


@pytest.fixture
def cache():
    return SlotCache(layers=2, rows=3, capacity=16)


def numbered(batch: int, width: int, start: int = 0) -> torch.Tensor:
    """f[B, H, T, D] whose every entry tells its row and its column."""
    rows = 100.0 * torch.arange(batch)[:, None, None, None]
    return (rows + start + torch.arange(width)[None, None, :, None]).expand(batch, 2, width, 4).contiguous()


def write(cache: SlotCache, slots: list[list[int]], states: torch.Tensor, used: int = 16):
    cache.plan = Plan(torch.tensor(slots), used, CPU)
    return [cache.update(states, -states, layer) for layer in range(2)]


def test_a_common_start_is_one_copy_and_reads_back(cache):
    for keys, values in write(cache, [[0, 1, 2]] * 3, numbered(3, 3), used=8):
        assert keys.shape == (3, 2, 8, 4)
        assert torch.equal(keys[:, :, :3], numbered(3, 3)) and torch.equal(values, -keys)
    assert cache.plan.start == 0


def test_ragged_rows_write_at_their_own_slots(cache):
    write(cache, [[0, 1, 2]] * 3, numbered(3, 3))
    for keys, _ in write(cache, [[3, 4], [1, 2], [5, 9]], numbered(3, 2, start=50)):
        assert keys[0, 0, :, 0].tolist()[:5] == [0, 1, 2, 50, 51]
        assert keys[1, 0, :, 0].tolist()[:3] == [100, 150, 151]
        assert keys[2, 0, [0, 1, 2, 5, 9], 0].tolist() == [200, 201, 202, 250, 251]


@pytest.mark.parametrize(
    "slots, start",
    [([[4, 5, 6]], 4), ([[4, 5, 6]] * 2, 4), ([[4, 5, 6], [4, 5, 7]], None), ([[4, 6, 7]], None), ([[6, 5, 4]], None), ([[3]], 3)],
)  # fmt: skip
def test_only_the_same_ascending_run_in_every_row_is_contiguous(slots, start):
    assert Plan(torch.tensor(slots), 16, CPU).start == start


def test_an_accepted_path_moves_to_the_front_and_the_rest_stays(cache):
    write(cache, [list(range(10))] * 3, numbered(3, 10))
    before = [layer.keys.clone() for layer in cache.layers]
    cache.gather(1, [4, 6, 9], 4)
    cache.gather(2, [5, 6], 4)  # overlapping source and destination
    for layer, old in zip(cache.layers, before):
        assert torch.equal(layer.keys[1, :, 4:7], old[1][:, [4, 6, 9]])
        assert torch.equal(layer.keys[2, :, 4:6], old[2][:, [5, 6]])
        assert torch.equal(layer.keys[:, :, :4], old[:, :, :4]) and torch.equal(layer.keys[0], old[0])
        assert torch.equal(layer.values, -layer.keys)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1], [1, 1, 0]])
def test_rows_change_places(cache, order):
    write(cache, [list(range(10))] * 3, numbered(3, 10))
    before = [layer.keys.clone() for layer in cache.layers]
    cache.arrange(order, 10)
    for layer, old in zip(cache.layers, before):
        assert torch.equal(layer.keys[: len(order), :, :10], old[order, :, :10])


def test_growth_keeps_what_is_held_and_moves_the_padding_slot(cache):
    write(cache, [list(range(10))] * 3, numbered(3, 10))
    cache.resize(5, 40)
    assert (cache.rows, cache.capacity, cache.padding) == (5, 40, 39)
    for layer in cache.layers:
        assert layer.keys.shape == (5, 2, 40, 4)
        assert torch.equal(layer.keys[:3, :, :10], numbered(3, 10)) and not layer.keys[3:].any()
    cache.resize(1, 1)
    assert (cache.rows, cache.capacity) == (5, 40), "it never shrinks"


def test_keys_and_values_may_have_different_widths(cache):
    cache.plan = Plan(torch.tensor([[0, 1]]), 4, CPU)
    keys, values = cache.update(torch.ones(1, 2, 2, 6), torch.ones(1, 2, 2, 3), 0)
    assert keys.shape == (1, 2, 4, 6) and values.shape == (1, 2, 4, 3)


def test_buckets_are_whole_and_never_too_small():
    assert [bucket(n) for n in (1, BUCKET, BUCKET + 1)] == [BUCKET, BUCKET, 2 * BUCKET]
