"""A second device on a machine that has none: tensors that say cuda:0, are computed on the host, and refuse to meet the host's as CUDA's do.

It shows where a tensor was made or left on the wrong side, and where the host waits for a device. It shows nothing of kernels, streams or times,
and its memory is the host's: a view of it that is read behind its back is right here and wrong there.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anydraft.parallel import threads

DEVICE = torch.device("cuda", 0)
HOST = torch.device("cpu")
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}
"""Operations whose result, or its size, the host must know before it goes on; copies to the host and masks as indices are counted besides."""

INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


class Far(torch.Tensor):
    """A tensor on the pretended device; `inner` is what it holds. To torch it is one on `meta`, of which nothing can be read by accident."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Far:
        shape = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device="meta", requires_grad=False, **shape)
        made.inner = inner
        return made

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"Far({self.inner})"

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(_indices(at))

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(_indices(at), value)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def item(self) -> Any:
        return self.cpu().item()

    def __bool__(self) -> bool:
        return bool(self.cpu())

    def __int__(self) -> int:
        return int(self.cpu())

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.cpu())

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; it must be copied to the host first")

    def __array__(self, *arguments: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """As long as it is entered, this thread can make tensors on the device. `waits` counts where anydraft made the host wait, as "file:line"; `sent` where it
    copied to the device and waited for that: until all that was asked before it is done, as torch does unless it is told not to.

    Workers in other threads are counted too, by the mode that `pretended` gives.
    """

    current: Pretended | None = None
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # the seat of torch's own mode without data: whoever sits there, torch starts no CUDA

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def note(self, counts: Counter[str]) -> None:
        """Counts for the innermost line of anydraft that is being run: what a model does counts for who called it."""
        frame: Any = sys._getframe(1)
        while frame is not None:
            _, inside, file = frame.f_code.co_filename.rpartition("/anydraft/")
            if inside:
                counts[f"{file}:{frame.f_lineno}"] += 1
                return
            frame = frame.f_back


class Graph:
    """A CUDA graph: what the device did while it was captured, to be done again with what the same tensors hold by then."""

    captured = threading.local()  # `by`: the graph that is being captured in a thread

    def __init__(self) -> None:
        self.done: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def capture_begin(self, **options: Any) -> None:
        Graph.captured.by = self

    def capture_end(self) -> None:
        Graph.captured.by = None

    def pool(self) -> Any:
        return None

    def replay(self) -> None:
        for func, args, kwargs, results in self.done:
            made = func(*args, **kwargs)
            for held, new in zip(results, _tensors([made])):
                if new.data_ptr() != held.data_ptr():  # else a view, or what was changed in place
                    held.copy_(new)


@contextlib.contextmanager
def pretended() -> Iterator[Pretended]:
    """The device is there in this thread, and in the workers that `Threads` starts meanwhile."""
    mode = Pretended()

    @contextlib.contextmanager
    def stream() -> Iterator[None]:
        with Pretended():  # modes are of one thread
            yield

    cuda = {"device_count": lambda: 1, "current_stream": mock.Mock(), "Stream": mock.Mock(), "stream": contextlib.nullcontext, "CUDAGraph": Graph}
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, where torch was built without one; it cannot be taken away, and harms nobody
    with contextlib.ExitStack() as until:
        until.enter_context(mock.patch.object(threads, "_own_stream", stream))
        until.enter_context(mock.patch.object(torch.accelerator, "synchronize", lambda *device: None))  # nothing is ever under way
        until.enter_context(mock.patch.multiple(torch.cuda, **cuda))
        until.enter_context(mock.patch.object(Pretended, "current", mode))
        until.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes its tensor here and then moves it, in sight of the mode
        until.enter_context(mode)
        yield mode


def moved(model: torch.nn.Module) -> Any:
    """A copy of a model on the device; only while it is pretended."""
    return copy.deepcopy(model).requires_grad_(False).to(DEVICE)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation of torch, as the device would take it."""
    name, given = func.overloadpacket.__name__, [*_flat(args), *_flat(kwargs)]
    far = [one for one in given if isinstance(one, Far)]
    assert not far or not any(type(one) is torch.Tensor and one.is_meta for one in given), f"{func}: torch made one of these without values"
    place = next((one for one in given if isinstance(one, torch.device)), None)
    to_host = place is not None and place.type == "cpu"
    if not far and (place is None or to_host):
        return func(*args, **kwargs)
    if name == "copy_":
        to_host = not isinstance(args[0], Far)
    else:
        _refuse_mixed(func, given if not (name in INDEXING and isinstance(args[0], Far)) else [args[0], *_flat(args[2:])])
    masks = name in INDEXING and any(one.dtype == torch.bool for one in _flat(args[1]) if isinstance(one, Far))
    waits = bool(far) and (to_host or name in WAITS or masks)
    sends = name in ("copy_", "_to_copy") and not to_host and _is_sent(args[name == "copy_"], args, kwargs)
    graph = getattr(Graph.captured, "by", None)
    if graph is not None and (waits or sends):
        raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
    if Pretended.current is not None and (waits or sends):
        Pretended.current.note(Pretended.current.waits if waits else Pretended.current.sent)
    args, kwargs = _each(_near, args), _each(_near, kwargs)
    done = func(*args, **kwargs)
    if to_host:
        return done
    if graph is not None:
        graph.done.append((func, args, kwargs, _tensors([done])))
    held = {id(one.inner): one for one in far}  # what is changed in place stays the tensor that it is
    return _each(lambda one: (held[id(one)] if id(one) in held else Far(one)) if isinstance(one, torch.Tensor) else one, done)


def _is_sent(one: torch.Tensor, args: Any, kwargs: Any) -> bool:
    """Whether a copy to the device takes anything there, and waits until it has."""
    return not isinstance(one, Far) and one.numel() > 0 and not kwargs.get("non_blocking", len(args) > 2 and args[2])


def _tensors(given: Any) -> list[torch.Tensor]:
    return [one for one in _flat(given) if isinstance(one, torch.Tensor)]


def _refuse_mixed(func: Any, given: list[Any]) -> None:
    """As CUDA: indices of the host go into a tensor of the device, and are not given here; a host tensor without dimensions is a number and may be met.

    CUDA takes such a number in arithmetic only; here it goes anywhere.
    """
    tensors = _tensors(given)
    here = [one for one in tensors if not isinstance(one, Far)]
    if not here or len(here) == len(tensors):
        return
    first = func._schema.arguments[0].alias_info
    changes_the_host = first is not None and first.is_write and tensors[0] is here[0]
    if changes_the_host or any(one.dim() for one in here):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {[tuple(one.shape) for one in here]} on cpu and others on {DEVICE}")


def _indices(at: Any) -> Any:
    """Lists as tensors of the host: torch itself would make them where it takes the indexed tensor to be, and there they had no values."""
    if isinstance(at, tuple):
        return tuple(_indices(one) for one in at)
    return torch.tensor(at) if isinstance(at, list) else at


def _near(one: Any) -> Any:
    return one.inner if isinstance(one, Far) else HOST if isinstance(one, torch.device) else one


def _flat(given: Any) -> Iterator[Any]:
    """All that stands in lists, tuples and dictionaries, in their order."""
    for one in given.values() if isinstance(given, dict) else given:
        if isinstance(one, (list, tuple)):
            yield from _flat(one)
        else:
            yield one


def _each(change: Callable[[Any], Any], given: Any) -> Any:
    """The same lists, tuples and dictionaries of what is changed."""
    if isinstance(given, dict):
        return {key: _each(change, one) for key, one in given.items()}
    return type(given)(_each(change, one) for one in given) if isinstance(given, (list, tuple)) else change(given)
