"""A decoding forward as one CUDA graph: its kernels, captured once for each shape and launched together.

A forward of a few tokens is hundreds of small kernels, and on a GPU the host needs longer to launch them than the GPU to run them. A graph launches
them in one call. It runs the same kernels on the same weights; the first replay of every shape is compared with the model itself, and where a
single bit differs, or anything at all goes wrong while it is captured, forwards of that shape stay with the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydraft.engine.graphs import WIDEST, decides_nothing, forward_of, stamp

MOST = 32  # graphs that an engine keeps; the one that was used longest ago goes first


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any
    inputs: list[Tensor]  # where the graph reads
    output: Tensor  # where it writes

    def __call__(self, given: list[Tensor]) -> Tensor:
        for held, new in zip(self.inputs, given):
            held.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.output.clone()  # the next replay writes there again


class CudaGraphs:
    """Replays forwards of one engine, whose slots the graphs write to. Same arguments as `Recorder`, same verbs."""

    def __init__(self, model: Any, run: Any, kinds: tuple[str, ...], output: str):
        self.model, self.run, self.kinds, self.output = model, run, kinds, output
        self.possible = isinstance(run, torch.nn.Module) and decides_nothing(model) and len({p.device for p in model.parameters()}) == 1
        self._stamp: Any = None
        self._stream: Any = None
        self.forget()

    def forget(self) -> None:
        """Drops all graphs."""
        self._graphs: dict[Any, _Captured] = {}
        self._refused: set[Any] = set()
        self._pool: Any = None
        self._held: list[Tensor] = []  # the slots that the graphs write to
        self._met: set[Any] = set()  # shapes that occurred once: many, like that of a prompt, never come again

    def refresh(self) -> None:
        """See `Recorder.refresh`."""
        now = stamp(self.model) if self.possible else None
        if now != self._stamp:
            self.forget()
            self._stamp = now

    def replay(
        self, cache: Any, tokens: Tensor, masks: list[Tensor], position: Tensor, slots: Tensor, used: int, eager: Callable[[], Tensor]
    ) -> Tensor | None:
        """See `Recorder.replay`."""
        if self._stamp is None or tokens.shape[1] > WIDEST:
            return None
        held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        if any(tensor is None for tensor in held):
            return None
        if len(held) != len(self._held) or any(a is not b for a, b in zip(held, self._held)):
            self._graphs.clear()
            self._held = held
        key = (*tokens.shape, slots.ndim, used)
        if key in self._refused:
            return None
        given = [tokens, position, slots, *masks]
        known = self._graphs.pop(key, None)
        if known is not None:
            self._graphs[key] = known
            return known(given)
        if key not in self._met:
            self._met.add(key)
            return None
        want = eager()
        made = self._capture(given, held)
        if made is None or not torch.equal(made(given), want):
            self._refused.add(key)
            return None  # the model writes into the same slots again
        if len(self._graphs) >= MOST:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[key] = made
        return want

    def _capture(self, given: list[Tensor], held: list[Tensor]) -> _Captured | None:
        forward = forward_of(self.run, self.kinds, self.output)
        inputs = [tensor.clone() for tensor in given]
        tokens, position, slots, *masks = inputs
        current = torch.cuda.current_stream(tokens.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(tokens.device)
        self._stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._stream):
                forward(tokens, position, slots, masks, held)  # what libraries do at their first call cannot be captured
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")  # other threads may be at work
                try:
                    output = forward(tokens, position, slots, masks, held)
                finally:
                    graph.capture_end()
        except Exception:  # noqa: BLE001 - whatever cannot be captured still runs as it is
            return None
        finally:
            current.wait_stream(self._stream)
        self._pool = graph.pool()
        return _Captured(graph, inputs, output)


__all__ = ["CudaGraphs"]
