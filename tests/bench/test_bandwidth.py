"""The measurement counts the right bytes and operations; the clock is replaced, so the figures are exact."""

import pytest
import torch

from anydraft.bench import bandwidth


@pytest.fixture
def half_a_second(monkeypatch):
    """A clock under which every run takes half a second, except the first, which must not count."""
    ticks = iter([0.0, 100.0] + [tick for run in range(1000) for tick in (1000.0 + run, 1000.5 + run)])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(ticks))


def test_seconds_leaves_out_the_warm_run(half_a_second):
    runs = []
    assert bandwidth._seconds(lambda: runs.append(1), "cpu", repeats=4) == 0.5
    assert len(runs) == 5


def test_a_copy_counts_twice_and_a_sum_once(monkeypatch):
    monkeypatch.setattr(bandwidth, "_seconds", lambda work, device, repeats: (work(), 0.5)[1])
    assert bandwidth.bandwidth(megabytes=2) == (2 * 0.002 / 0.5, 0.002 / 0.5)


def test_operations_of_a_product(half_a_second):
    assert bandwidth.matmul_gflops("cpu", torch.float32, width=1000, repeats=1) == 4.0


def test_an_unsupported_dtype_is_none_not_an_error(monkeypatch):
    def refuses(*_):
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(bandwidth, "_seconds", refuses)
    assert bandwidth.matmul_gflops("cpu", torch.float16) is None
