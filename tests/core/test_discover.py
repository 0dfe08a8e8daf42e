"""The registry by folder: headers are read exactly, mistakes are named, and nothing heavy is imported."""

import subprocess
import sys

import pytest

from anydraft.core import discover
from anydraft.core.errors import BadMethodFile, UnknownMethod

RULE = '''"""Toss a coin: accept every second token.

Source:   Nobody 2026, Alg. 1;
          and a second line
Keeps:    law
Judges:   token            determined
Noise:    fresh
Cost:     nothing
Differs:  nothing

Prose may follow. Note: this line is no field.
"""
'''


def put(tmp_path, folder, name, text):
    path = tmp_path / folder / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_header_is_read_whole(tmp_path):
    method = discover.read(put(tmp_path, "rules", "coin", RULE))
    assert (method.folder, method.name, method.title) == ("rules", "coin", "Toss a coin")
    assert method.claim == "accept every second token."
    assert list(method.fields) == ["Source", "Keeps", "Judges", "Noise", "Cost", "Differs"]
    assert method.fields["Source"] == "Nobody 2026, Alg. 1; and a second line"
    assert method.fields["Differs"] == "nothing"
    assert method.fields["Judges"] == "token; determined"


@pytest.mark.parametrize("folder", discover.REQUIRED)
def test_each_required_field_is_required(tmp_path, folder):
    for left_out in discover.REQUIRED[folder]:
        fields = "".join(f"{field}: x\n" for field in discover.REQUIRED[folder] if field != left_out)
        path = put(tmp_path, folder, "m", f'"""T: c.\n\n{fields}"""\n')
        with pytest.raises(BadMethodFile, match=f"{folder}/m.py lacks {left_out} "):
            discover.read(path)


NO_TITLE = ["", "x = 1\n", '"""No colon here."""\n', '"""Title: no full stop"""\n', '"""Title: claim\nover two lines.\n"""\n']


@pytest.mark.parametrize("text", NO_TITLE)
def test_a_header_without_a_title_is_refused(tmp_path, text):
    with pytest.raises(BadMethodFile, match="has no title"):
        discover.read(put(tmp_path, "rules", "m", text))


def test_an_empty_value_is_a_missing_field(tmp_path):
    with pytest.raises(BadMethodFile, match="lacks Cost "):
        discover.read(put(tmp_path, "rules", "m", RULE.replace("Cost:     nothing", "Cost:")))


def test_methods_are_the_files_in_order_and_private_files_are_not(tmp_path):
    for name in ("zeta", "alpha", "_private", "__init__"):
        put(tmp_path, "rules", name, RULE)
    assert [method.name for method in discover.methods(tmp_path / "rules")] == ["alpha", "zeta"]
    assert discover.methods(tmp_path / "nowhere") == []


def package(tmp_path, monkeypatch, **files):
    """A package folder `anydraft.planted` that holds these files; its modules are forgotten when the test ends."""
    import anydraft

    for name, text in files.items():
        put(tmp_path, "planted", name, text)
    monkeypatch.setattr(discover, "PACKAGE", tmp_path)
    monkeypatch.setattr(anydraft, "__path__", [*anydraft.__path__, str(tmp_path)])
    for name in ("anydraft.planted", *(f"anydraft.planted.{name}" for name in files)):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_load_takes_the_class_named_as_the_file(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, tok_rec="class Other: pass\nclass TokREC: pass\nTOKREC = TokREC\n")
    assert discover.load("planted", "tok_rec").__name__ == "TokREC"


def test_load_takes_the_declared_class_and_never_an_imported_one(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, path="from pathlib import Path\nclass Road: pass\n__all__ = ['Road']\n")
    assert discover.load("planted", "path").__name__ == "Road"


def test_load_takes_a_function_of_exactly_the_files_name_but_no_imported_one(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, in_turn="def in_turn(): pass\nclass Other: pass\n", glob="from glob import glob\n")
    assert discover.load("planted", "in_turn").__name__ == "in_turn"
    with pytest.raises(BadMethodFile, match="got: no class"):
        discover.load("planted", "glob")


def test_load_refuses_a_file_without_its_class(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, two_words="class A: pass\nclass B: pass\n__all__ = ['A', 'B']\n")
    with pytest.raises(BadMethodFile, match="got: A, B; expected: TwoWords"):
        discover.load("planted", "two_words")


def test_load_names_the_nearest_and_all(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, prompt_lookup="", suffix="")
    with pytest.raises(UnknownMethod, match=r"one of prompt_lookup, suffix\). Did you mean 'prompt_lookup'\?"):
        discover.load("planted", "promt-lookup")
    with pytest.raises(UnknownMethod, match="anydraft methods"):
        discover.load("planted", "zzz")


def test_load_does_not_hide_an_import_error(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, needy="import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        discover.load("planted", "needy")


def test_listing_methods_imports_neither_them_nor_torch():
    code = (
        "import sys; from anydraft.core import discover; [discover.methods(f) for f in discover.REQUIRED];"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers') or m.startswith('anydraft.rules')];"
        "sys.exit(str(bad) if bad else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
