"""What figures belong to: the machine and the versions, without any path or host name."""

from __future__ import annotations

import os
import platform
from typing import Any


def processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, device and versions, ready for JSON."""
    import torch
    import transformers

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
