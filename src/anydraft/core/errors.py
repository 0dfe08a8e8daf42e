"""Every error that anydraft raises on purpose.

    AnydraftError
    ├── UnknownMethod      a rule, drafter, control or schedule that no file is named after
    ├── UnknownOption      an option name that the call does not have
    ├── BadOption          a known option with a value that it cannot take
    ├── BadPrompt          a prompt that cannot be continued
    ├── BadModel           a model or tokenizer that cannot be loaded
    ├── UnsupportedModel   a model that loads but cannot be rolled back or masked exactly
    ├── WrongPair          two parts that do not fit together
    │   └── WrongVocabulary    ... because their vocabularies differ
    ├── NonFiniteLogits    a model that returned NaN, or nothing but minus infinity
    ├── BadDraft           a drafter that broke the contract of `Draft`
    └── BadMethodFile      a file in a method folder without a proper header or class

Catch `AnydraftError` to catch them all; the command line turns each into one message and exit code 2.
"""

import difflib
from collections.abc import Iterable


class AnydraftError(Exception):
    """The base: says what is wrong, what was given, what would be right, and what to do next.

    Args:
        what: one clause that names the problem, without a full stop.
        got: the offending value, shown as `str` gives it; left out when None.
        expected: what would have been accepted; left out when None.
        next_step: what the reader can do now, a sentence without a full stop; left out when None.

    >>> print(BadOption("temperature is negative", got=-1, expected="a number >= 0", next_step="Use 0 for greedy decoding"))
    temperature is negative (got: -1; expected: a number >= 0). Use 0 for greedy decoding.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, next_step: str | None = None):
        super().__init__(what)  # `what` alone in args: an exception is pickled as (class, args, __dict__)
        self.what, self.got, self.expected, self.next_step = what, got, expected, next_step

    def __str__(self) -> str:
        facts = [f"{name}: {value}" for name, value in (("got", self.got), ("expected", self.expected)) if value is not None]
        sentence = f"{self.what} ({'; '.join(facts)})" if facts else self.what
        return f"{_ended(sentence)} {_ended(self.next_step)}" if self.next_step else _ended(sentence)


class UnknownMethod(AnydraftError):
    """Raised when a method is asked for by a name that no file of its folder has."""


class UnknownOption(AnydraftError):
    """Raised when a call is given an option that it does not have: misspelt, or belonging to another method."""


class BadOption(AnydraftError):
    """Raised when a known option has a value that it cannot take, alone or beside another option."""


class BadPrompt(AnydraftError):
    """Raised when a prompt is empty, is longer than the model's context, or holds ids outside the vocabulary."""


class BadModel(AnydraftError):
    """Raised when a model or tokenizer cannot be loaded: no such path, missing files, not a causal language model."""


class UnsupportedModel(AnydraftError):
    """Raised when a model cannot be decoded exactly here: its state cannot be rolled back, or it takes no tree mask."""


class WrongPair(AnydraftError):
    """Raised before any model is loaded when two parts do not fit: a rule and kinds of node, a drafter and a schedule."""


class WrongVocabulary(WrongPair):
    """Raised when target and drafter must share a vocabulary and do not, or a tokenizer is not its model's."""


class NonFiniteLogits(AnydraftError):
    """Raised when a model returns NaN, or logits that leave no token possible, instead of a law."""


class BadDraft(AnydraftError):
    """Raised when a drafter returns a `Draft` that breaks the contract of records.py; a bug of the drafter, not of its input."""


class BadMethodFile(AnydraftError):
    """Raised when a file in a method folder has no proper header, or no class that goes with its name."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a reader most likely meant, or None when nothing is close.

    Case, hyphens and underscores do not count.

    >>> nearest("Prompt-Lokup", ["prompt_lookup", "suffix"])
    'prompt_lookup'
    >>> nearest("xyz", ["prompt_lookup", "suffix"])
    """
    folded = {_folded(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_folded(name), list(folded), n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else sentence + "."
