"""A method is one file, its test, and one row of docs/methods.md: each of the three is missed here when it is missing."""

import ast
import re
from pathlib import Path

import pytest

from anydraft.core import discover
from anydraft.core.errors import BadMethodFile
from anydraft.core.records import KINDS

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["Method", "File", "Source", "Keeps", "Judges/Kinds", "Noise/Needs", "Test"]
KEEPS = {"law", "path", "lossy"}


def problems(root: Path) -> list[str]:
    """What is missing or contradictory in the catalogue of the checkout at `root`, one sentence each."""
    rows, found = table(root)
    for folder in discover.REQUIRED:
        for name in discover.names(root / "src/anydraft" / folder):
            file, test = f"{folder}/{name}.py", f"tests/{folder}/test_{name}.py"
            try:
                method = discover.read(root / "src/anydraft" / file)
            except BadMethodFile as error:
                found.append(str(error))
                continue
            if not (root / test).exists():
                found.append(f"{file} has no test {test}")
            row = rows.pop(file, None)
            if row is None:
                found.append(f"docs/methods.md has no row for {file}")
            else:
                found += contradictions(method, row, test)
    return found + [f"docs/methods.md has a row for {file}, which does not exist" for file in rows]


def contradictions(method: discover.Method, row: dict[str, str], test: str) -> list[str]:
    """Where the header, the class and the row of one method say different things."""
    found, file = [], f"{method.folder}/{method.name}.py"
    if row["Test"].strip("`") != test:
        found.append(f"the row of {file} names the test {row['Test']}, not {test}")
    if keeps := method.fields.get("Keeps"):
        word = re.split(r"\W", keeps)[0]
        if word not in KEEPS:
            found.append(f"{file} keeps {word!r}, which is none of {', '.join(sorted(KEEPS))}")
        if not row["Keeps"].startswith(word):
            found.append(f"{file} keeps {word!r}, its row says {row['Keeps']!r}")
    written = method.fields.get("Judges") or method.fields.get("Kinds") or ""
    declared = kinds_of_class(method.path)
    if declared is not None and declared != {kind for kind in KINDS if kind in written}:
        found.append(f"the class of {file} has kinds {', '.join(sorted(declared))}, its header says {written!r}")
    return found


def kinds_of_class(path: Path) -> set[str] | None:
    """The literal `kinds = (...)` of a class in the file, or None where there is none."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == ["kinds"]:
                    try:
                        return set(ast.literal_eval(line.value))
                    except ValueError:
                        return None
    return None


def table(root: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The rows of docs/methods.md by file, and what is wrong with the table itself."""
    rows, found = {}, []
    lines = [line for line in (root / "docs/methods.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if not split or split[0] != COLUMNS:
        return {}, [f"the table of docs/methods.md does not start with the columns {COLUMNS}"]
    for cells in split[2:]:
        if len(cells) != len(COLUMNS) or not all(cells):
            found.append(f"the row {cells[0]!r} of docs/methods.md does not fill its {len(COLUMNS)} columns")
            continue
        file = cells[1].strip("`")
        if file in rows:
            found.append(f"docs/methods.md has two rows for {file}")
        rows[file] = dict(zip(COLUMNS, cells))
    return rows, found


def test_every_method_is_in_the_catalogue():
    assert problems(ROOT) == []


@pytest.mark.parametrize("folder, name", [(folder, name) for folder in discover.REQUIRED for name in discover.names(folder)])
def test_every_method_can_be_loaded_by_its_name(folder, name):
    made = discover.load(folder, name)
    assert made.__module__ == f"anydraft.{folder}.{name}"
    assert made.__doc__, "what a user meets has a docstring"


HEADER = '''"""Coin: accept every second token.

Source:   Nobody 2026
Keeps:    law
Judges:   token            independent
Noise:    fresh
Cost:     nothing
Differs:  nothing
"""


class Coin:
    kinds = ("independent",)
'''
ROW = "| Coin | `rules/coin.py` | Nobody 2026 | law | token | fresh | `tests/rules/test_coin.py` |"


def plant(root: Path, *, header=HEADER, row=ROW, test=True, columns=COLUMNS) -> list[str]:
    """The problems of a checkout that has one rule, complete unless told otherwise."""
    for folder in ("src/anydraft/rules", "tests/rules", "docs"):
        (root / folder).mkdir(parents=True)
    (root / "src/anydraft/rules/coin.py").write_text(header)
    if test:
        (root / "tests/rules/test_coin.py").touch()
    (root / "docs/methods.md").write_text("\n".join(["# Methods", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", row, ""]))
    return problems(root)


def test_a_complete_method_has_no_problem(tmp_path):
    assert plant(tmp_path) == []


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"header": HEADER.replace("Cost:", "Price:")}, "lacks Cost"),
        ({"header": HEADER.replace("Coin: accept", "Coin accepts")}, "no title"),
        ({"header": HEADER.replace("law", "most of it")}, "keeps 'most', which is none of"),
        ({"header": HEADER.replace("law", "path")}, "keeps 'path', its row says 'law'"),
        ({"header": HEADER.replace('("independent",)', '("determined",)')}, "has kinds determined, its header says"),
        ({"test": False}, "has no test tests/rules/test_coin.py"),
        ({"row": ""}, "has no row for rules/coin.py"),
        ({"row": ROW.replace("test_coin", "test_dice")}, "names the test"),
        ({"row": ROW.replace("fresh", "")}, "does not fill its 7 columns"),
        ({"row": ROW + "\n" + ROW}, "two rows for rules/coin.py"),
        ({"row": ROW + "\n" + ROW.replace("coin", "gone")}, "a row for rules/gone.py, which does not exist"),
        ({"columns": COLUMNS[::-1]}, "does not start with the columns"),
    ],
)
def test_each_omission_is_found(tmp_path, change, complaint):
    found = plant(tmp_path, **change)
    assert any(complaint in problem for problem in found), found
