"""Products of a few rows: the same numbers as torch's own up to their last bits, for every shape, and only where they are meant for."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn.functional import linear

from anydraft.engine import products

few = products.few_rows()
pytestmark = pytest.mark.skipif(few is None, reason="this torch has no oneDNN")


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 9, 20, 70])
@pytest.mark.parametrize("width, depth", [(48, 40), (256, 256), (512, 1100), (96, 4096)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_same_numbers(rows, width, depth, bias):
    """Small, by columns and by oneDNN: exact in float64 up to float32's rounding, and shaped as torch's."""
    x, weight = torch.randn(rows, depth), torch.randn(width, depth)
    add = torch.randn(width) if bias else None
    want = linear(x.double(), weight.double(), None if add is None else add.double())
    for shaped in (x, x[None], x[:, None]):
        got = few(shaped, weight, add)
        assert got.shape == linear(shaped, weight, add).shape and got.is_contiguous()
        assert torch.allclose(got.view(rows, width).double(), want, atol=1e-6 * depth**0.5 * 10)


def test_rows_that_do_not_lie_together():
    """A view with strides is multiplied as what it shows."""
    x, weight = torch.randn(4, 2, 256)[:, 0], torch.randn(300, 256)
    assert torch.allclose(few(x, weight, None), linear(x, weight), atol=1e-4)
    assert torch.allclose(few(x.t().contiguous().t(), weight, None), linear(x, weight), atol=1e-4)


def test_only_while_entered_and_only_for_float32():
    """Nothing is left behind, and other dtypes and calls by name go torch's own way."""
    calls = []

    def counted(x, weight, bias):
        calls.append(weight.dtype)
        return linear(x, weight, bias)

    layer, x = torch.nn.Linear(256, 256), torch.randn(2, 256)
    with torch.inference_mode(), products.FewRows(counted):
        layer(x)
        layer.to(torch.bfloat16)(x.bfloat16())
        linear(input=x, weight=torch.randn(3, 256))
    layer.float()(x)
    assert calls == [torch.float32]


def test_taken_only_where_it_gains(monkeypatch):
    """The verdict is by the clock: a way that is slower is not taken, and models of tiny weights are not even timed."""
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.Linear(512, 256))
    monkeypatch.setattr(products, "_timed", {})
    monkeypatch.setattr(products, "GAIN", 0.0)
    assert isinstance(products.suited(model), contextlib.nullcontext)
    monkeypatch.setattr(products, "_timed", {})
    monkeypatch.setattr(products, "GAIN", 1e9)
    assert isinstance(products.suited(model), products.FewRows)
    monkeypatch.setattr(products, "_gains", lambda weights: pytest.fail("timed"))
    assert isinstance(products.suited(torch.nn.Linear(16, 16)), contextlib.nullcontext)
    assert isinstance(products.suited(model.double()), contextlib.nullcontext)
