"""`anydraft doctor`: the facts of this machine that decide how fast decoding can be, and the first thing to paste into a bug report."""

import importlib.metadata
import json
import os
import platform
from typing import Annotated, Any

import typer

from anydraft.bench.hardware import processor

LIBRARIES = ("anydraft", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def doctor(
    device: Annotated[str, typer.Option(help="The torch device to measure: cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
):
    """Show versions, threads, dtypes and the measured memory bandwidth."""
    facts = examine(device)
    print(json.dumps(facts, indent=2)) if as_json else show(facts)


def examine(device: str) -> dict[str, dict[str, Any]]:
    """Everything that `doctor` prints, in four groups.

    Units: bandwidth in 1e9 bytes per second, matrix products in 1e9 floating point operations per second, memory in 1e9 bytes.
    Raises BadOption when torch cannot use the device.
    """
    import torch

    from anydraft.bench.bandwidth import bandwidth, matmul_gflops
    from anydraft.core.errors import BadOption

    try:
        torch.ones(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts when it was built without the backend
        first = str(error).partition("\n")[0]
        raise BadOption(f"torch cannot use the device {device!r}: {first}", expected=", ".join(devices())) from error
    dtypes = {str(dtype).removeprefix("torch."): matmul_gflops(device, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    speed = bandwidth(device)
    return {
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "devices": devices(),
        },
        "matrix products, GFLOP/s": dtypes,
        "memory bandwidth, GB/s": {"device": device, "copy": round(speed.copy, 2), "read": round(speed.read, 2)},
    }


def devices() -> list[str]:
    """The devices that torch can use here, accelerators with their name and memory.

    >>> devices()[0]
    'cpu'
    """
    import torch

    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} ({known.name}, {known.total_memory / 1e9:.0f} GB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def show(facts: dict[str, dict[str, Any]]) -> None:
    """Prints the groups of `examine` as one table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for group, values in facts.items():
        table.add_row(f"[bold]{group}[/bold]", "")
        for name, value in values.items():
            table.add_row(f"  {name}", "not supported" if value is None else ", ".join(value) if isinstance(value, list) else str(value))
    Console().print(table)
