"""The arrows of the house: who may import whom, read from the source without running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/anydraft"

METHODS = {"rules", "drafters", "control", "schedules", "lossy"}
PARTS = {"rules", "drafters", "vocabulary", "control", "schedules", "parallel", "engine"}
USES = {"planning", "testing", "training", "serving", "bench", "lossy"}
TOP = {"__init__", "__main__", "aliases", "build", "cli", "deploy", "drop_in", "generation", "loading", "options", "pairing", "speculator"}
FOLDERS = {"core", "zoo"} | PARTS | USES | TOP

# What each folder may import from, besides itself. `bench` measures what users hold, so it sees the facade too.
MAY = {
    "core": set(),
    "zoo": {"core"},
    **{part: {"core"} for part in PARTS},
    "drafters": {"core", "vocabulary"},
    **{use: {"core", "zoo"} | PARTS for use in USES},
    "bench": FOLDERS - {"cli"},
    **dict.fromkeys(TOP, FOLDERS),
}

VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
SYNCS = {"item", "tolist", "cpu", "numpy", "nonzero"}  # each makes the host wait for the device


def problems(package: Path) -> list[str]:
    """What breaks the arrows in the package at this path, one sentence each."""
    bare = sorted({path.parent for path in package.rglob("*.py") if not (path.parent / "__init__.py").exists()})
    found = [f"{folder.relative_to(package)}: no __init__.py, so an installed package would lack this folder" for folder in bare]
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        home, tree = inside.parts[0].removesuffix(".py"), ast.parse(path.read_text(encoding="utf-8"))
        if home not in MAY:
            found.append(f"{inside}: the design has no place called {home}")
            continue
        if VAGUE & set(inside.with_suffix("").parts):
            found.append(f"{inside}: a name that says nothing; name the file after what it holds")
        for module in imported(tree, inside):
            found += [f"{inside} imports {'.'.join(module)}"] if forbidden(home, module, package) else []
        if home == "rules":
            found += [f"{inside}:{node.lineno} waits for the device: .{node.attr}" for node in ast.walk(tree)
                      if isinstance(node, ast.Attribute) and node.attr in SYNCS]
    return found


def forbidden(home: str, module: tuple[str, ...], package: Path) -> bool:
    """Whether a file of `home` must not import `module`, both without the leading `anydraft`."""
    if module[0] != home:
        return module[0] not in MAY[home]
    # Methods never import each other: each can be deleted. What two of them share has a name, and a place in core.
    return home in METHODS and len(module) > 1 and (package / home / f"{module[1]}.py").exists()


def imported(tree: ast.AST, inside: Path) -> Iterator[tuple[str, ...]]:
    """Every module of ours that a file imports anywhere, also inside functions, as parts after `anydraft`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(["anydraft", *inside.parts[: len(inside.parts) - node.level]]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "anydraft" and rest:
                yield tuple(rest)


def test_the_arrows_hold():
    assert problems(PACKAGE) == []


def test_there_is_a_package_to_look_at():
    """An empty folder would pass everything above."""
    assert len(list(PACKAGE.rglob("*.py"))) > 10


@pytest.mark.parametrize("module", ["anydraft", "anydraft.cli", "anydraft.core.discover", "anydraft.zoo"])
def test_light_modules_do_not_load_torch(module):
    code = f"import sys, {module}; heavy = {{'torch', 'transformers'}} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


CLEAN = {
    "core/law.py": "import torch",
    "rules/match.py": "from anydraft.core.law import Law",
    "drafters/tli.py": "import anydraft.vocabulary.bytes",
    "vocabulary/bytes.py": "",
    "engine/slots.py": "from anydraft.engine import graphs",
    "engine/graphs.py": "x.item()",
    "build.py": "import anydraft.rules.match",
}


def plant(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    return problems(root)


def test_a_clean_package_has_no_problem(tmp_path):
    assert plant(tmp_path, CLEAN) == []


@pytest.mark.parametrize(
    "file, text, complaint",
    [
        ("core/tree.py", "from anydraft.rules.match import Match", "core/tree.py imports rules.match"),
        ("core/tree.py", "def late():\n    from anydraft import build", "core/tree.py imports build"),
        ("core/tree.py", "from ..engine import slots", "core/tree.py imports engine.slots"),
        ("rules/other.py", "from anydraft.rules.match import Match", "rules/other.py imports rules.match"),
        ("rules/other.py", "from .match import Match", "rules/other.py imports rules.match"),
        ("rules/other.py", "from anydraft.rules import match", "rules/other.py imports rules.match"),
        ("drafters/other.py", "import anydraft.engine.slots", "drafters/other.py imports engine.slots"),
        ("control/other.py", "import anydraft.vocabulary.bytes", "control/other.py imports vocabulary.bytes"),
        ("engine/other.py", "from anydraft.drafters.tli import TLI", "engine/other.py imports drafters.tli"),
        ("testing/other.py", "from anydraft.speculator import Speculator", "testing/other.py imports speculator"),
        ("rules/other.py", "def verify(x):\n    return x.sum().item()", "rules/other.py:2 waits for the device: .item"),
        ("engine/utils.py", "", "engine/utils.py: a name that says nothing"),
        ("stuff/other.py", "", "the design has no place called stuff"),
    ],
)
def test_each_violation_is_found(tmp_path, file, text, complaint):
    found = plant(tmp_path, {**CLEAN, file: text})
    assert found and all(complaint in problem for problem in found), found


def test_a_folder_without_init_is_found(tmp_path):
    plant(tmp_path, CLEAN)
    (tmp_path / "rules/__init__.py").unlink()
    assert problems(tmp_path) == ["rules: no __init__.py, so an installed package would lack this folder"]
