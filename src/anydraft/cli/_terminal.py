"""What `generate` and `demo` share: generated text on a terminal, with the accepted draft tokens coloured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from anydraft.speculator import Piece

DRAFTED = "green"


def quiet() -> None:
    """Keeps transformers' progress bars and advice off the screen; errors still come through as exceptions."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def console(no_color: bool) -> Console:
    """A console on stdout: coloured on a terminal, plain in a file or a pipe, where NO_COLOR is set, or where the user says so."""
    from rich.console import Console

    return Console(no_color=no_color or None, highlight=False, markup=False, emoji=False, soft_wrap=True)


class Painter:
    """Shows pieces of one text as they come, each token in its proposer's colour.

    Args:
        decode: ids to text, as `Speculator.decode`.
        before: ids of the prompt.
        out: where to; plain text goes to its file as it is, tabs and all.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: list[int], out: Console):
        from anydraft.core.stopping import TextStream

        self._stream = TextStream(decode, before)
        self._makers: list[bool] = []  # of every character not shown yet: whether a drafter proposed it
        self._out = out
        self.tokens = self.drafted = 0

    def show(self, piece: Piece) -> None:
        """Shows a piece's text. The text decides; which token a character belongs to is found by decoding along."""
        for token, proposer in zip(piece.token_ids, piece.proposers):
            accepted = proposer != "target"
            self._makers += [accepted] * len(self._stream.push(token))
            self.tokens += 1
            self.drafted += accepted
        self._makers += [False] * (len(piece.text) - len(self._makers))
        makers, self._makers = self._makers[: len(piece.text)], self._makers[len(piece.text) :]
        if not self._out.is_terminal:
            self._out.file.write(piece.text)
            self._out.file.flush()
            return
        start = 0
        for end in range(1, len(makers) + 1):  # runs of one colour
            if end == len(makers) or makers[end] != makers[start]:
                self._out.print(piece.text[start:end], style=DRAFTED if makers[start] else None, end="")
                start = end
        self._out.file.flush()
