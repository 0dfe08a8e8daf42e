"""The command line as a whole: commands are files, errors are one message and exit code 2, and help is quick."""

import importlib.metadata
import subprocess
import sys

import pytest

from anydraft import cli

PLANTED = {
    "raises_ours": "from anydraft.core.errors import BadOption\n"
                   "def raises_ours():\n    'Fails.'\n    raise BadOption('no', got=3, next_step='Say yes')\n",
    "interrupted": "def interrupted():\n    'Stops.'\n    raise KeyboardInterrupt\n",
    "buggy": "def buggy():\n    'Breaks.'\n    raise ZeroDivisionError\n",
    "_private": "raise RuntimeError('a private file is no command')\n",
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    for name, text in PLANTED.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"planted_commands.{name}", raising=False)
    package = type(sys)("planted_commands")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "planted_commands", package)
    made = cli.app(tmp_path, "planted_commands")
    monkeypatch.setattr(cli, "app", lambda: made)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def test_a_file_is_a_command(planted, capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "raises-ours" in shown and "interrupted" in shown and "private" not in shown


def test_our_errors_are_one_line_and_exit_code_2(planted, capsys):
    assert run("raises-ours") == 2
    shown = capsys.readouterr()
    assert shown.err == "Error: no (got: 3). Say yes.\n"
    assert shown.out == ""


def test_an_interrupt_is_quiet_and_exits_130(planted, capsys):
    assert run("interrupted") == 130
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and "Error" not in shown.err


def test_a_bug_is_not_dressed_up_as_a_user_error(planted):
    with pytest.raises(ZeroDivisionError):
        cli.main(["buggy"])


@pytest.mark.parametrize("arguments, message", [(["doktor"], "doctor"), (["methods", "--jsn"], "--json"), (["methods", "extra"], "extra")])
def test_usage_errors_name_the_word_and_exit_2(capsys, arguments, message):
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == ""


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"anydraft {importlib.metadata.version('anydraft')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["methods"], ["methods", "--json"]])
def test_what_only_asks_the_folders_never_loads_torch(arguments):
    code = (
        "import sys\nfrom anydraft.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_installed_script_is_this_function():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="anydraft")
    assert script.load() is cli.main
