"""What the README shows is true: its code runs, its links lead somewhere, its commands and methods exist."""

import contextlib
import io
import re
from pathlib import Path

from anydraft.core import discover

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs_and_prints():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert len(printed.getvalue()) > 100


def test_links_lead_to_files():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
        assert not broken, page


def test_every_make_target_is_in_the_makefile():
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+) ", README)):
        assert re.search(rf"^{target}:", rules, re.MULTILINE), target


def test_the_methods_named_are_files():
    """Not all of them: a new method has its row in docs/methods.md, and the README stays one screen."""
    rows = README.partition("## Methods")[2].partition("\n|---")[2]
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*)\|", rows, re.MULTILINE))))
    assert named - {"auto"} and named <= {"auto", *discover.names("drafters")}
