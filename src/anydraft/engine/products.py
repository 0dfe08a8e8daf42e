"""Products of a few rows by a weight, where torch's usual way is slow: float32 on a processor whose BLAS was not written for it.

A forward of a decoding step is some hundred products of a weight by 1 to 20 rows. The BLAS that torch is built with takes two or three times as
long for them as the memory would allow, on AMD's processors above all, and takes twice as long for two rows as for one, which is exactly
what speculation must not pay. Two other ways are at hand, with the same weights where they lie: the product written by columns,
and oneDNN's. Both sum in another order, so results differ in the last bits, as they do between one row and several anyway.

Whether this machine gains is timed once for each model, not assumed.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SMALL = 32768  # elements of a weight below which a call costs more than what it computes
SAMPLE = 64 << 20  # bytes of weights that are timed
GAIN = 0.9  # share of the usual time below which the other ways are taken

_ONEDNN = """
graph(%x : Tensor, %weight : Tensor, %bias : Tensor?):
  %attr : str = prim::Constant[value="none"]()
  %algorithm : str = prim::Constant[value=""]()
  %scalars : Scalar?[] = prim::ListConstruct()
  %y : Tensor = mkldnn::_linear_pointwise(%x, %weight, %bias, %attr, %scalars, %algorithm)
  return (%y)
"""  # written out, because neither scripts nor traces can spell an empty list of optional numbers


@functools.cache
def few_rows() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """(x f[..., D], weight f[E, D], bias f[E] or None) -> f[..., E]; None where torch lacks what it needs.

    A script, so that a recorded forward (graphs.py) keeps its branches: one recording serves every number of rows. By columns as long as
    the rows stay in the nearest cache, 2,048 numbers; scripts take no constants from outside.
    """
    if not torch.backends.mkldnn.is_available():
        return None

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if weight.numel() <= 32768:
            return torch.nn.functional.linear(x, weight, bias)
        depth = x.size(-1)
        rows = x.numel() // depth
        if rows == 0 or rows > 8 or rows * depth > 2048:
            return onednn(x, weight, bias)
        flat = x.reshape(rows, depth)
        if rows == 1:  # a matrix by one column is a matrix by a vector again, so the column comes twice
            y = torch.mm(weight, torch.cat((flat, flat)).t())[:, 0]
        else:
            y = torch.mm(weight, flat.t()).t()
        y = y.contiguous().view(x.shape[:-1] + weight.shape[:1])  # models may view what they get in another shape
        return y if bias is None else y + bias

    try:
        onednn = torch._C._create_function_from_graph("onednn", torch._C.parse_ir(_ONEDNN))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(linear)
    except (AttributeError, RuntimeError):  # a torch without these ways still has the usual one
        return None


class FewRows(TorchFunctionMode):
    """While entered, linear layers compute as `few_rows`; the model that runs inside is not touched."""

    def __init__(self, linear: Callable[..., Tensor]):
        super().__init__()
        self.linear = linear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchFunctionMode`."""
        if func is torch.nn.functional.linear and not kwargs and _usable(args[1]):
            return self.linear(*args) if len(args) == 3 else self.linear(*args, None)
        return func(*args, **(kwargs or {}))


def _usable(weight: Tensor) -> bool:
    """Quantized weights multiply in their own way, and other dtypes well enough in torch's."""
    return type(weight) in (Tensor, torch.nn.Parameter) and weight.dtype == torch.float32 and weight.device.type == "cpu"


Products = contextlib.AbstractContextManager[Any]


def suited(model: Any) -> Products:
    """What to enter around this model's forwards: `FewRows` where that is faster on this machine, else nothing."""
    weights = [m.weight.detach() for m in model.modules() if type(m) is torch.nn.Linear]
    linear = few_rows()
    if linear is None or not all(map(_usable, weights)) or all(w.numel() <= SMALL for w in weights):
        return contextlib.nullcontext()
    return FewRows(linear) if _gains(tuple(_some(weights))) else contextlib.nullcontext()


def _some(weights: Iterable[Tensor]) -> Iterable[Tensor]:
    room = SAMPLE
    for weight in weights:
        if room > 0:
            yield weight
            room -= weight.numel() * 4


def _gains(weights: tuple[Tensor, ...]) -> bool:
    """Whether `few_rows` multiplies these weights faster than torch's usual way, for one row and for four together; timed once a process."""
    ours, usual = few_rows(), torch.nn.functional.linear
    assert ours is not None
    inputs = {(rows, w.shape[1]): torch.ones(1, rows, w.shape[1]) for w in weights for rows in (1, 4)}

    def seconds(linear: Callable[..., Tensor]) -> float:
        start = time.perf_counter()
        for rows in (1, 4):
            for w in weights:
                linear(inputs[rows, w.shape[1]], w, None)
        return time.perf_counter() - start

    key = (torch.get_num_threads(), *(w.shape for w in weights))
    if key not in _timed:
        with torch.inference_mode():
            turns = [(seconds(usual), seconds(ours)) for _ in range(4)][1:]  # the first one warms up
        _timed[key] = min(new for _, new in turns) < GAIN * min(old for old, _ in turns)
    return _timed[key]


_timed: dict[Any, bool] = {}
