"""Measurements as JSON Lines: each line is on the disk before the next is measured, so a killed run loses nothing that was finished.

The first line says what the file belongs to; a run with other settings does not mix with it. A line that a kill cut in half is dropped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from anydraft.bench.measure import Measurement
from anydraft.core.errors import BadOption


class Store:
    """An append-only file of one benchmark.

    Args:
        path: made if it is not there; its folder must exist.
        settings: what makes two runs the same benchmark, plain types.
    Raises:
        BadOption: the file belongs to another benchmark.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            self._recover()
        if not self.lines:
            self._append({"kind": "settings", "settings": self.settings})
        elif self.lines[0].get("settings") != self.settings:
            held = self.lines[0].get("settings") or {}
            other = [name for name in self.settings.keys() | held.keys() if held.get(name) != self.settings.get(name)]
            raise BadOption(
                f"{path.name} holds another benchmark",
                got="other " + ", ".join(sorted(other)),
                next_step="Choose another folder, or repeat its settings",
            )
        self.session = 1 + max((line["session"] for line in self.lines if "session" in line), default=-1)

    @classmethod
    def read(cls, path: Path) -> Store:
        """A finished benchmark, whatever its settings were; nothing is appended."""
        with path.open("rb") as file:
            first = json.loads(file.readline())
        return cls(path, first["settings"])

    def _recover(self) -> None:
        """Keeps every whole line; what a kill left behind the last newline is cut off."""
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise BadOption(f"{self.path.name} is not a benchmark's file", got=line[:40].decode(errors="replace")) from error
        if len(whole) < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def add(self, kind: str, **values: Any) -> None:
        """Appends one line and waits until it is on the disk."""
        self._append({"kind": kind, "session": self.session, **values})

    def add_measurement(self, block: str, measured: Measurement) -> None:
        """Appends one contender's result in one round of a block."""
        self._append({"kind": "measurement", "block": block, **dataclasses.asdict(measured)})

    def _append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self.path.open("ab") as file:
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def sessions(self) -> int:
        """How many runs have written to the file."""
        return len({line["session"] for line in self.lines if "session" in line})

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All lines of a kind, oldest first."""
        return [line for line in self.lines if line.get("kind") == kind]

    def measurements(self, block: str) -> list[Measurement]:
        """All results of a block."""
        names = {f.name for f in dataclasses.fields(Measurement)}
        return [Measurement(**{k: v for k, v in line.items() if k in names}) for line in self.of("measurement") if line["block"] == block]

    def finished(self, block: str) -> set[tuple[str, str, int]]:
        """(contender, job, repetition) that need not be measured again."""
        return {(line["contender"], line["job"], line["repetition"]) for line in self.of("measurement") if line["block"] == block}
