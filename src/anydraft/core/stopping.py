"""When a request ends, and what its text is: decided per emitted token, in order, per request, after the rule.

`token_ids` keep the token that completes a stop string or is the end-of-sequence token; `text` ends before the stop string
(unless `include_stop_str_in_output`) and shows no end-of-sequence token. Stop strings are looked for in the
generated text, wherever tokens and blocks divide it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from anydraft.core.records import Request

Decode = Callable[[list[int]], str]

_UNFINISHED = "\ufffd"
_LOOK_BEHIND = 6  # tokens decoded in front of the new ones, so that spaces and merges come out as in the whole text


class TextStream:
    """The text of a growing id sequence, decoded piece by piece; the work per token does not grow with the text.

    A piece is the difference of two decodings that share their first tokens, so that leading spaces and characters that
    span tokens come out right. An incomplete character is held back until it is complete or the text ends.
    """

    def __init__(self, decode: Decode, before: list[int]):
        """before: the last ids of the prompt, which decide whether the first piece starts with a space."""
        self._decode = decode
        self._ids = list(before[-_LOOK_BEHIND:])
        self._shown = decode(self._ids) if self._ids else ""
        self.text = ""

    def push(self, token: int) -> str:
        """Adds one token; returns the text that it completed, possibly empty."""
        self._ids.append(token)
        whole = self._decode(self._ids)
        if whole.endswith(_UNFINISHED) and len(self._ids) < 4 * _LOOK_BEHIND:
            return ""
        return self._take(whole)

    def flush(self) -> str:
        """What an incomplete character at the very end reads as."""
        return self._take(self._decode(self._ids))

    def _take(self, whole: str) -> str:
        same = len(self._shown)
        if not whole.startswith(self._shown):  # a decoder that rewrites what it already gave: keep what has been shown
            same = next((i for i, (a, b) in enumerate(zip(self._shown, whole)) if a != b), min(len(self._shown), len(whole)))
        piece = whole[same:]
        self.text += piece
        self._ids = self._ids[-_LOOK_BEHIND:]
        self._shown = self._decode(self._ids)
        return piece


def _continuation(decode: Decode, prompt: list[int], ids: list[int]) -> str:
    """The text of generated ids as it reads behind the prompt."""
    before = prompt[-_LOOK_BEHIND:]
    shown, whole = decode(before), decode(before + ids)
    return whole[len(shown) :] if whole.startswith(shown) else decode(ids)


class Stopping:
    """The ending of one request."""

    def __init__(self, request: Request, decode: Decode | None = None, *, incremental: bool = True):
        """decode: ids to text without special tokens; needed for stop strings and for text.

        incremental: whether the text is wanted while it grows; if not, it is decoded once, at the end.
        """
        self.request = request
        self._decode = decode
        self.finish: str | None = None
        self.stop_reason: str | int | None = None  # the stop string or the id that ended the text
        self.ids: list[int] = []
        self._stream = TextStream(decode, request.prompt.tolist()) if decode and incremental else None
        self._cut: int | None = None  # length of the text in front of the stop string
        self._longest = max((len(s) for s in request.stop_strings), default=0)
        self._told = 0

    def push(self, token: int, context_ids: Any, limit_reached: bool) -> bool:
        """Adds an emitted token and decides whether the request ends with it.

        Args:
            context_ids: a function that gives i64[1, S], prompt and generated ids, for the user's criteria.
            limit_reached: whether the length limit is reached with this token.
        """
        self.ids.append(token)
        if token in self.request.eos:
            self._end("stop", token)
        else:
            piece = self._stream.push(token) if self._stream else ""
            self._find_stop(piece)
        for criterion in self.request.stopping_criteria:  # each is asked once per token, whatever the others say
            if bool(torch.as_tensor(criterion(context_ids(), None)).all()) and self.finish is None:
                self._end("stop", None)
        if limit_reached and self.finish is None:
            self._end("length", None)
        return self.finish is not None

    def _end(self, finish: str, reason: str | int | None) -> None:
        self.finish, self.stop_reason = finish, reason
        if self._stream:
            piece = self._stream.flush()
            if reason is None:
                self._find_stop(piece)

    def _find_stop(self, piece: str) -> None:
        if not piece or not self._longest or self._cut is not None or self._stream is None:
            return
        text = self._stream.text
        start = max(0, len(text) - len(piece) - self._longest + 1)  # a match may begin before this piece, never end before it
        found = [(text.find(s, start), s) for s in self.request.stop_strings]
        found = [(at, s) for at, s in found if at >= 0]
        if found:
            at, stop = min(found, key=lambda f: (f[0] + len(f[1]), f[0]))  # the one that was complete first
            self._cut = at + len(stop) if self.request.include_stop_str_in_output else at
            self.finish, self.stop_reason = "stop", stop

    @property
    def text(self) -> str:
        """The text so far, as the user may see it."""
        if self._stream is None:
            return _continuation(self._decode, self.request.prompt.tolist(), self.ids) if self._decode else ""
        return self._stream.text if self._cut is None else self._stream.text[: self._cut]

    def fresh_text(self) -> str:
        """The text that became certain since the last call: what may turn out to be the start of a stop string is held back."""
        text = self.text
        safe = len(text)
        if self.finish is None:
            for stop in self.request.stop_strings:
                overlap = next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
                safe = min(safe, len(text) - overlap)
        piece = text[self._told : safe]
        self._told = max(self._told, safe)
        return piece
