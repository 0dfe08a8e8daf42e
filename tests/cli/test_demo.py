"""`anydraft demo`: the table counts what happened, and a single differing token is a loud failure."""

import re

import pytest

from anydraft import cli
from anydraft.cli import demo


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", *map(str, arguments)])
    return ended.value.code


@pytest.fixture(autouse=True)
def wide_as_usual(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_the_whole_demonstration(capsys):
    assert run("--max-new-tokens", 24, "--turns", 2) == 0
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and "Loading" not in shown.err and "\x1b" not in shown.out
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 100 and all(len(line) <= 80 for line in lines if "│" in line or "─" in line)
    rows = {name: re.search(rf"{re.escape(name)}\s+(.*)", shown.out).group(1) for name in (
        "tokens/s, median", "ratio, median (min..max)", "mean acceptance length", "acceptance rate", "target forwards")}
    plain, speculative = map(int, rows["target forwards"].split())
    assert plain == 25 > speculative  # one for the prompt and one per token
    slow, fast = map(float, rows["tokens/s, median"].split())
    assert slow > 0 and fast > 0
    low, high = map(float, re.search(r"\((.*)\.\.(.*)\)", rows["ratio, median (min..max)"]).groups())
    assert low <= float(rows["ratio, median (min..max)"].split()[1]) <= high
    assert "identical, token for token (24 tokens, 4 runs)" in shown.out
    assert "asyncio/events.py" in shown.out and "def __eq__(self, other):" in shown.out


def test_a_differing_token_is_loud(capsys, monkeypatch):
    true = demo.pair

    def broken():
        plain, speculative = true()
        generate = speculative.generate

        def wrong(*arguments, **options):
            made = generate(*arguments, **options)
            made.token_ids[5] += 1
            return made

        monkeypatch.setattr(speculative, "generate", wrong)
        return plain, speculative

    monkeypatch.setattr(demo, "pair", broken)
    assert run("--max-new-tokens", 8, "--turns", 1) == 1
    shown = capsys.readouterr().out
    assert "THE OUTPUTS DIFFER, first at token 5." in shown and "identical" not in shown


@pytest.mark.parametrize("arguments, complaint", [(["--turns", 0], "--turns is not usable"), (["--max-new-tokens", 0], "max_new_tokens")])
def test_refusals(capsys, arguments, complaint):
    assert run(*arguments) == 2
    assert complaint in capsys.readouterr().err


def test_help(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "--turns" in shown and "--no-color" in shown
