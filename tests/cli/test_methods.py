"""`anydraft methods` shows every method file, and its JSON is what the headers say."""

import json

import pytest

from anydraft import cli
from anydraft.core import discover

FILES = {(folder, name) for folder in discover.REQUIRED for name in discover.names(folder)}


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_json_holds_every_file_with_its_fields(capsys):
    listed = json.loads(shown(capsys, "methods", "--json"))
    assert {(method["folder"], method["name"]) for method in listed} == FILES
    for method in listed:
        assert set(discover.REQUIRED[method["folder"]]) <= set(method["fields"])


def test_table_names_every_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = set(shown(capsys, "methods").split())
    assert {name for _, name in FILES} <= words


def test_a_claim_with_brackets_is_shown_as_it_is(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "rules").mkdir()
    fields = "\n".join(f"{field}: a row f[B, V] of [red]p[/red]" for field in discover.REQUIRED["rules"])
    (tmp_path / "rules/coin.py").write_text(f'"""Coin: reads [bold]f[B, V].\n\n{fields}\n"""\n')
    monkeypatch.setattr(discover, "PACKAGE", tmp_path)
    printed = shown(capsys, "methods")
    assert "reads [bold]f[B, V]." in printed and "a row f[B, V] of [red]p[/red]" in printed
