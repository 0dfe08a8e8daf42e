"""docs/pitfalls.md: every row is there, and every test that it names."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(page: str, root: Path) -> list[str]:
    """What is missing, one sentence each."""
    rows = {int(n): line for line in page.splitlines() if (n := line.split("|")[1].strip() if line.startswith("|") else "").isdigit()}
    found = [f"there is no row {n}" for n in range(1, 39) if n not in rows]
    for number, line in sorted(rows.items()):
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line)
        if not named:
            found.append(f"row {number} names no test")
        for file, test in named:
            if not (root / file).is_file() or test not in functions(root / file):
                found.append(f"row {number} names {file}::{test}, which does not exist")
    return found


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_every_row_has_its_test():
    assert problems((ROOT / "docs/pitfalls.md").read_text(encoding="utf-8"), ROOT) == []


def test_omissions_are_found():
    page = (ROOT / "docs/pitfalls.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    without = "\n".join(line for line in lines if not line.startswith("| 7 |"))
    assert problems(without, ROOT) == ["there is no row 7"]
    assert any("row 24" in p and "does not exist" in p for p in problems(page.replace("test_pitfall_24_re_encoding", "test_pitfall_24_encoding"), ROOT))
    assert problems(page.replace("| `tests/vocabulary/test_alignment.py::test_pitfall_26_nothing_to_propose` |", "| later |"), ROOT) == ["row 26 names no test"]


def test_every_test_that_is_named_after_a_row_is_on_the_page():
    page = (ROOT / "docs/pitfalls.md").read_text(encoding="utf-8")
    rows = set(map(int, re.findall(r"^\| (\d+) \|", page, re.M)))
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in functions(path):
            for number in re.findall(r"(?:pitfall|and)_(\d\d)(?=_)", name) if name.startswith("test_pitfall_") else ():
                assert int(number) in rows, f"{path.name}::{name}"
