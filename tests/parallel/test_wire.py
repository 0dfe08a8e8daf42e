"""Messages as bytes: every kind of tensor and draft comes out as it went in."""

import dataclasses

import pytest
import torch

from anydraft.core.judge import chain
from anydraft.core.law import Dense, Point
from anydraft.core.messages import Drafted, Node, Scored
from anydraft.core.records import Draft
from anydraft.parallel.wire import dumps, loads


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_kind(dtype):
    six = torch.arange(6).to(dtype).reshape(2, 3)
    for tensor in (six, six.T, torch.zeros(0, 3, dtype=dtype), torch.ones((), dtype=dtype)):
        found = loads(dumps(tensor))
        assert found.dtype == dtype and found.shape == tensor.shape and torch.equal(found, tensor)
        found.zero_()  # a buffer of its own, that may be written to


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return all(map(same, a, b)) if isinstance(a, tuple) else a == b


@pytest.mark.parametrize("law", [None, Point(torch.tensor([[7]]), 12), Point(torch.tensor([[7, 8]]), 12, torch.float64), Dense(torch.rand(1, 1, 12))])
@pytest.mark.parametrize("token, live, kind, index", [(7, True, 1, 0), (-1, True, 0, -1), (0, False, 2, 3)])
def test_a_drafted_node(law, token, live, kind, index):
    made = {name: torch.tensor([[value]]) for name, value in (("tokens", token), ("parent", -1), ("live", live), ("kind", kind), ("index", index))}
    sent = Drafted(3, 1, 9, (Node(token, Draft(**made, law=law, levels=1, forwards=1)),), True, 0.5)
    assert same(loads(dumps(sent)), sent)


def test_several_nodes_and_rows():
    sent = Drafted(3, 1, 9, (Node(4, chain((4, 5))), Node(-1)))
    assert same(loads(dumps(sent)), sent)
    rows = Scored(1, 0, 2, 5, torch.randn(3, 12))
    assert same(loads(dumps(rows)), rows)
