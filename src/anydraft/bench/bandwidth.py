"""How fast this machine moves and multiplies numbers: the floor under any decoding time.

One plain decoding step reads every weight once, so a model of `n` bytes cannot do better than `n / read` seconds a token.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Bandwidth(NamedTuple):
    """Memory bandwidth in 1e9 bytes per second.

    `copy` counts each byte twice (read and written); `read` is a sum over the same buffer, which only reads.
    """

    copy: float
    read: float


def bandwidth(device: str | torch.device = "cpu", megabytes: int = 256, repeats: int = 7) -> Bandwidth:
    """Measures the median speed of warm copies and sums of a float32 buffer that no cache holds.

    Args:
        megabytes: size of the buffer in 1e6 bytes; two are allocated. Keep it well above the last-level cache.
        repeats: timed runs of each, after one that is thrown away because it meets untouched pages.

    >>> bandwidth(megabytes=1, repeats=1).copy > 0
    True
    """
    source = torch.ones(megabytes * 250_000, dtype=torch.float32, device=device)
    sink = torch.empty_like(source)
    size = source.numel() * source.element_size()
    return Bandwidth(
        copy=2 * size / 1e9 / _seconds(lambda: sink.copy_(source), device, repeats),
        read=size / 1e9 / _seconds(lambda: source.sum(), device, repeats),
    )


def matmul_gflops(device: str | torch.device, dtype: torch.dtype, width: int = 512, repeats: int = 7) -> float | None:
    """Measures a square matrix product in 1e9 operations per second; None where the device has none in this dtype.

    >>> matmul_gflops("cpu", torch.float32, width=16, repeats=1) > 0
    True
    """
    try:
        matrix = torch.full((width, width), 1 / width, dtype=dtype, device=device)
        return round(2 * width**3 / 1e9 / _seconds(lambda: matrix @ matrix, device, repeats), 1)
    except RuntimeError:
        return None


def _seconds(work: Callable[[], object], device: str | torch.device, repeats: int) -> float:
    """The median time of `repeats` runs after a warm one; an accelerator is waited for in each."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.device(device).type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])
