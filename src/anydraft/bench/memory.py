"""The most memory that a block of work held: of the accelerator where there is one, else of this process where Linux can say it."""

from __future__ import annotations

from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """`bytes` after the block: peak allocation on the current CUDA device, else the process's peak resident set, else None.

    Models that are loaded are part of it; so it compares contenders of one run, and is not one method's own need.
    """

    bytes: int | None = None

    def __enter__(self) -> Peak:
        import torch

        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                _RESET.write_text("5")  # Linux: forget the resident set's high-water mark
            except OSError:
                self._resettable = False
            else:
                self._resettable = True
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self.bytes = torch.cuda.max_memory_allocated() if self._cuda else resident_peak() if self._resettable else None


def resident_peak() -> int | None:
    """The high-water mark of this process's resident set, bytes; None where the system does not say."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
