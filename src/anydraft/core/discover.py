"""The folder is the registry: a method is a file, and what it claims stands in the header of that file.

Headers are read with `ast`, so listing every method imports none of them, and torch stays unloaded.

    Title: what it does, in one line.

    Source:   the paper, with algorithm or equation
    Keeps:    a value may go on
              in indented lines
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydraft.core.errors import BadMethodFile, UnknownMethod, nearest

PACKAGE = Path(__file__).resolve().parent.parent

# The fields that a header must have, by folder. More are allowed; the table of `anydraft methods` shows what is there.
REQUIRED = {
    "rules": ("Source", "Keeps", "Judges", "Noise", "Cost", "Differs"),
    "drafters": ("Source", "Kinds", "Needs", "Cost", "Differs"),
    "control": ("Source", "State", "Cost", "Differs"),
    "schedules": ("Source", "Keeps", "Cost", "Differs"),
}


@dataclass(frozen=True)
class Method:
    """One method as its file describes it: nothing here is imported or run.

    `folder` and `name` are what `load` takes; `fields` holds the header's fields in their order, each value on one line,
    with "; " where the header leaves a gap of two spaces or more between a word and a remark on it.
    """

    folder: str
    name: str
    title: str
    claim: str
    fields: dict[str, str]
    path: Path


def names(folder: str | Path) -> list[str]:
    """The names of the methods in a folder, sorted; files that start with an underscore are not methods.

    >>> "speculative_sampling" in names("rules")
    True
    """
    return sorted(path.stem for path in _where(folder).glob("*.py") if not path.name.startswith("_"))


def methods(folder: str | Path) -> list[Method]:
    """Reads the header of every method in a folder.

    Args:
        folder: a folder of this package ("rules"), or a path.
    Returns:
        The methods sorted by name; empty when there is no such folder.
    Raises:
        BadMethodFile: a header is missing, is malformed, or lacks a field of `REQUIRED`.
    """
    return [read(_where(folder) / f"{name}.py") for name in names(folder)]


def read(path: Path) -> Method:
    """Reads the header of one file. Raises BadMethodFile as `methods` does."""
    folder, name = path.parent.name, path.stem
    first, _, rest = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")
    title, colon, claim = first.partition(": ")
    if not (title and colon and claim.endswith(".")):
        raise BadMethodFile(f"the header of {folder}/{path.name} has no title", got=repr(first), expected="'Title: one-line claim.'")
    fields = _fields(rest)
    if missing := [field for field in REQUIRED.get(folder, ()) if not fields.get(field)]:
        raise BadMethodFile(
            f"the header of {folder}/{path.name} lacks {', '.join(missing)}", got=", ".join(fields) or "no field",
            expected=", ".join(REQUIRED[folder]), next_step="docs/adding_a_method.md shows a complete header")
    return Method(folder, name, title, claim, fields, path)


def load(folder: str, name: str) -> Callable[..., Any]:
    """Imports one method and returns what makes it: a class, or for most schedules a function.

    It is the class that has the file's name up to case and underscores; failing that, the only class in `__all__`; failing
    that, the function of exactly that name.

    Raises:
        UnknownMethod: no file of the folder has this name.
        BadMethodFile: the file defines neither.
        Whatever importing the file raises, unchanged: a missing dependency must not look like a missing method.

    >>> load("rules", "speculative_samplin")
    Traceback (most recent call last):
    anydraft.core.errors.UnknownMethod: no file in rules/ is named 'speculative_samplin' (...). Did you mean 'speculative_sampling'?
    """
    known = names(folder)
    if name not in known:
        close = nearest(name, known)
        raise UnknownMethod(f"no file in {folder}/ is named {name!r}", expected="one of " + ", ".join(known) if known else None,
                            next_step=f"Did you mean {close!r}?" if close else "Run `anydraft methods` to see what each does")
    module = importlib.import_module(f"anydraft.{folder}.{name}")
    own = {key: value for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__}
    for key, value in own.items():
        if not key.startswith("_") and key.lower() == name.replace("_", ""):
            return value
    declared = [own[key] for key in getattr(module, "__all__", ()) if key in own]
    if len(declared) == 1:
        return declared[0]
    if inspect.isfunction(made := getattr(module, name, None)) and made.__module__ == module.__name__:
        return made
    raise BadMethodFile(f"{folder}/{name}.py defines no class or function of its name", got=", ".join(own) or "no class",
                        expected="".join(word.capitalize() for word in name.split("_")),
                        next_step="Name the class after the file, or name the one public class in __all__")


def _where(folder: str | Path) -> Path:
    return folder if isinstance(folder, Path) else PACKAGE / folder


def _fields(text: str) -> dict[str, str]:
    """The first block of `Name: value` lines, continued by indented lines; it ends at a blank or unindented line."""
    fields: dict[str, str] = {}
    last = None
    for line in text.lstrip("\n").splitlines():
        if found := re.fullmatch(r"([A-Z][a-z]+):\s*(.*)", line):
            last = found[1]
            fields[last] = found[2]
        elif last and re.match(r"\s+\S", line):
            fields[last] += f" {line.strip()}"
        else:
            break
    return {field: re.sub(r"\s{2,}", "; ", value.strip()) for field, value in fields.items()}
