"""The `anydraft` command. Each public file of this folder is a command: `doctor.py` defines `doctor`, run as `anydraft doctor`.

A command file imports nothing heavy at its top, because `anydraft --help` imports them all; what needs torch is
imported inside the function. Exit codes: 0 done, 2 for anything the user can mend (one message on stderr), 130 after Ctrl-C.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from anydraft.core import discover
from anydraft.core.errors import AnydraftError

FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code.

    Args:
        arguments: what follows the program's name; None takes `sys.argv`.
    Raises:
        SystemExit: always.
    """
    try:
        app()(args=arguments, prog_name="anydraft")
    except AnydraftError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def app(folder: Path = FOLDER, package: str = __name__) -> typer.Typer:
    """The application with one command for each public file of `folder`, which is the package named `package`."""
    # Plain text instead of boxes: an error can then be read, searched and quoted as one line.
    made = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    made.callback()(root)
    for name in discover.names(folder):
        module = importlib.import_module(f"{package}.{name}")
        made.command(name=name.replace("_", "-"))(getattr(module, name))
    return made


def print_version(asked: bool) -> None:
    if asked:
        print(f"anydraft {importlib.metadata.version('anydraft')}")
        raise typer.Exit()


def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=print_version)] = False,
):
    """Make any causal language model generate faster with any drafter, and leave its output law as it was."""
