"""Messages as bytes. Tensors travel as plain buffers: torch's own pickling writes a small archive for each, some 0.2 ms a message."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

from anydraft.core.law import Point
from anydraft.core.records import Draft

_NAMED = {dtype: str(dtype).removeprefix("torch.") for dtype in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool
)}  # fmt: skip


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is Tensor and thing.dtype in _NAMED and thing.layout == torch.strided and not thing.requires_grad:
            plain = thing.detach().cpu().contiguous()
            data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
            return _tensor, (data, _NAMED[thing.dtype], tuple(thing.shape))
        if type(thing) is Draft and thing.tokens.numel() == 1 and thing.source is None:  # what a drafter sends, again and again
            numbers = [int(getattr(thing, name)) for name in _OF_A_NODE]
            return _one, (numbers, thing.law, thing.levels, thing.chain, thing.proposer, thing.forwards)
        if type(thing) is Point and thing.ids.numel() == 1:
            return _point, (int(thing.ids), tuple(thing.ids.shape), thing.width, _NAMED[thing.dtype])
        return NotImplemented


_OF_A_NODE = ("tokens", "parent", "live", "kind", "index")


def _one(numbers: list[int], law: Any, levels: int, chain: bool, proposer: tuple[str, ...], forwards: int) -> Draft:
    token, parent, live, kind, index = torch.tensor(numbers).view(5, 1, 1)
    own = {"tokens": token, "parent": parent, "live": live.bool(), "kind": kind, "index": index}
    return Draft(**own, law=law, levels=levels, chain=chain, proposer=proposer, forwards=forwards)


def _point(token: int, shape: tuple[int, ...], width: int, dtype: str) -> Point:
    return Point(torch.full(shape, token), width, getattr(torch, dtype))


def _tensor(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    kind = getattr(torch, dtype)
    if not data:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape)


def dumps(thing: Any) -> bytes:
    """The bytes of a message; tensors arrive in host memory.

    >>> loads(dumps(torch.arange(3)))
    tensor([0, 1, 2])
    """
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """The message of these bytes, which must come from a worker of ours: unpickling runs what it is told to."""
    return pickle.loads(data)
