"""docs/one_step.md tells what really happens: its code runs, and prints what the page shows."""

import doctest
from pathlib import Path

import transformers

PAGE = Path(__file__).resolve().parent.parent / "docs/one_step.md"


def test_the_page_runs():
    transformers.logging.disable_progress_bar()
    failed, run = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert run > 30 and failed == 0
