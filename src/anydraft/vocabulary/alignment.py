"""Keeping two id sequences about one text: target ids to drafter ids and back.

Source: Timor et al. 2025, arXiv:2502.05202 (SLEM, TLI), in an offset-anchored form: both sides are compared by places in the text
and never by searching for equal runs of ids, which goes astray in periodic text.

The text of the committed target ids is the truth. Drafter ids are cut and extended to follow it; target ids are never rewritten.
A re-tokenization that goes wrong costs acceptance and nothing else. Text is bytes throughout, so a character that is cut in two
waits as bytes, and everything is done on a bounded stretch before the end: the work of a step does not grow with the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.following import SPECIAL, AlignmentState, Edit, Follower
from anydraft.vocabulary.ids import DrafterIds, Ids, TargetIds
from anydraft.vocabulary.intersection import NOT_SHARED, Intersection
from anydraft.vocabulary.seams import alone, behind, continuing, stretch, text_tail
from anydraft.vocabulary.utf8 import complete_length, proper

__all__ = ["Aligner", "AlignmentState", "Edit", "IncrementalText", "WINDOWS"]

WINDOWS = (8, 16, 32, 64)
"""How many target ids before the end are tried, in turn, as the anchor of a candidate."""

REACH = 2 * WINDOWS[-1]
"""Target ids before the end that are ever looked at."""


class IncrementalText:
    """The text of a growing id sequence, at a cost that depends on the new ids alone.

    >>> text = IncrementalText(ByteVocabulary.from_table([b"a", b"\\xc3", b"\\xa9"]))
    >>> text.push([0, 1]), text.pending, text.push([2]).decode()
    (b'a', b'\\xc3', 'é')
    """

    def __init__(self, vocabulary: ByteVocabulary, start: bool = False):
        """`start`: the sequence begins a text, so the space that the tokenizer put before it is dropped."""
        self.vocabulary = vocabulary
        self.pending = b""
        self._start = start

    def push(self, ids: Iterable[int]) -> bytes:
        """The bytes that these ids add, up to the last whole character; special tokens add none."""
        new = self.vocabulary.text_of(ids)
        if self._start and new:
            self._start = False
            new = new[1:] if self.vocabulary.strips_prefix and new[:1] == b" " else new
        data = self.pending + new
        whole = complete_length(data)
        self.pending = data[whole:]
        return data[:whole]


class Aligner:
    """Follows the target's text with drafter ids, and reads drafter ids as target candidates.

    Holds no state of any request and changes no tokenizer; one serves every request of a pair of models.
    """

    def __init__(self, intersection: Intersection):
        """The two vocabularies and their map; special tokens are translated by that map alone."""
        self.intersection = intersection
        self.target, self.drafter = intersection.target, intersection.drafter
        self._d2t: list[int] = intersection.d2t.tolist()
        self._t2d: list[int] = intersection.t2d.tolist()

    # Target -> drafter

    def prompt(self, target_ids: TargetIds | Sequence[int]) -> tuple[list[int], bytes]:
        """The drafter's prompt for a prompt of target ids. The one call whose cost grows with the prompt.

        Special tokens that both sides know are translated, other markers become their own text (a chat prompt keeps its roles; one
        built with the drafter's own template is better still), and the drafter's tokenizer adds what it puts before a text.

        Returns:
            drafter ids, and the beginning of a character that the prompt's end cuts in two.
        """
        ids = _plain(target_ids, self.target)
        begins = len(ids) > 0 and self.target.has_role(ids[0], "bos")
        runs: list[tuple[bytes, list[int]]] = []  # text, and the special drafter id behind it
        text = b""
        for id in ids[1:] if begins else ids:
            if (data := self.target.table[id]) is None and self._t2d[id] >= 0:
                runs.append((text, [self._t2d[id]]))
                text = b""
            elif data is None and NOT_SHARED.isdisjoint(self.target.roles.get(id, NOT_SHARED)):
                text += (self.target.pieces[id] or "").encode()
            else:
                text += data or b""
        whole = complete_length(text)
        runs.append((text[:whole], []))
        (first, special), *others = runs
        made = self._beginning(first, begins) + special
        for text_run, special in others:
            made += self.drafter.encode(text_run).ids + special
        return made, text[whole:]

    def _beginning(self, data: bytes, begins: bool) -> list[int]:
        if self.target.strips_prefix:
            data = data.removeprefix(b" ")
        try:
            ids = self.drafter.encode_whole(data.decode())
        except UnicodeDecodeError:
            ids = self.drafter.encode_whole("") + self.drafter.encode(data).ids
        bos = self.drafter.ids_of("bos")[:1]
        return [*bos, *ids] if begins and bos and ids[:1] != list(bos) else ids

    def start(self, target_ids: TargetIds | Sequence[int], drafter_prompt: DrafterIds | Sequence[int] | None = None) -> AlignmentState:
        """The state of a request that is all prompt.

        Args:
            target_ids: the target's prompt.
            drafter_prompt: the drafter's, if it was built elsewhere (its own chat template); None to translate.
        """
        ids = _plain(target_ids, self.target)
        made, rest = self.prompt(ids) if drafter_prompt is None else (_plain(drafter_prompt, self.drafter), b"")
        state = AlignmentState.of_prompt(ids, made, rest, self.drafter)
        Follower(self.drafter, self._t2d, state, []).extend(len(state.text), rewrite=False)
        return state

    def sync(
        self,
        state: AlignmentState,
        committed: TargetIds | Sequence[int],
        *,
        agree: int | None = None,
        drafted: DrafterIds | Sequence[int] = (),
        direct: bool = False,
    ) -> Edit:
        """Make the drafter's ids follow the target's.

        Args:
            state: changed in place.
            committed: the target ids behind the first `agree` ones.
            agree: how many of `state.target_ids` still hold, None for all. Provisional contexts are taken back this way.
            drafted: ids that the drafter appended since the last call. Those that the text confirms are kept as they are.
            direct: translate mapped tokens one by one and encode only runs of others (TLI); otherwise encode all new text (SLEM).

        Returns:
            what to do to the drafter's ids, `drafted` included; `state.drafter_ids` is the result.

        Raises:
            WrongVocabulary: ids of another vocabulary, or `agree` inside the prompt.
        """
        new = _plain(committed, self.target)
        follower = Follower(self.drafter, self._t2d, state, _plain(drafted, self.drafter))
        if agree is not None and agree < len(state.target_ids):
            follower.take_back(agree)
        up_to_date = state.covered == len(state.text)
        for id in new:
            data = self.target.table[id]
            if data is None and self._t2d[id] >= 0:
                state.special[len(state.text)] = self._t2d[id]
                data = SPECIAL
            state.text += data or b""
            state.target_ends.append(len(state.text))
        state.target_ids += new
        if up_to_date:
            follower.accept_drafted()
        if direct:
            follower.translate()
        follower.extend(len(state.text), rewrite=not direct)
        return follower.edit()

    def mapped(self, target_ids: Sequence[int]) -> list[int]:
        """The drafter's id of each target token, -1 where it has none."""
        return [self._t2d[id] for id in target_ids]

    def translate(self, target_id: int, before: bytes = b"") -> list[int]:
        """One target token as drafter ids: its map, else its text encoded behind `before`. Never an unknown, eos or padding id.

        Args:
            target_id: in [0, V).
            before: the end of the text so far; a few dozen bytes are enough.

        Returns:
            1..n drafter ids; none where the drafter cannot express the token.
        """
        data = self.target.bytes_of(target_id)
        if self._t2d[target_id] >= 0:
            return [self._t2d[target_id]]
        if data is None:
            return []
        if complete_length(before + data) < len(before + data):
            return self.drafter.spell(data) or []
        return behind(self.drafter, before, data).ids

    # Drafter -> target

    def candidates(self, state: AlignmentState, drafted: DrafterIds | Sequence[int], limit: int | None = None) -> list[int]:
        """Target ids that read like what the drafter drafted.

        A special token that both sides know is translated by role or name, and ends the candidate if it ends the text; any other
        special token ends the candidate before it. No other special id is ever returned.

        Args:
            state: after `sync`; the drafted ids follow `state.drafter_ids`.
            drafted: drafter ids, in order.
            limit: at most so many candidates.

        Returns:
            target ids, perhaps none.
        """
        if state.covered < len(state.text):
            return []
        found: list[int] = []
        run = b""
        tail = state.target_ids[-REACH:]
        for id in [*_plain(drafted, self.drafter), None]:
            if id is not None and (data := self.drafter.table[id]) is not None:
                run += data
                continue
            found += self._continuing(tail + found, run)
            special, run = self._d2t[id] if id is not None else -1, b""
            if special < 0:
                break
            found.append(special)
            if self.target.has_role(special, "eos") or self.drafter.has_role(id, "eos"):  # type: ignore[arg-type]
                break
        return found[:limit]

    def candidates_from_text(self, tail: TargetIds | Sequence[int], continuation: str | bytes, limit: int | None = None) -> list[int]:
        """Target ids of a text that continues the target's ids.

        Args:
            tail: the last target ids; more than 128 are not looked at.
            continuation: the text that follows theirs. A character that its end cuts in two is left out, and so is everything behind
                bytes that are no text (U+FFFD in a `str`).
            limit: at most so many candidates.
        """
        ids = _plain(tail[-REACH:] if not isinstance(tail, Ids) else tail, self.target)[-REACH:]
        text = continuation.split("\ufffd")[0].encode("utf-8", "ignore") if isinstance(continuation, str) else continuation
        return self._continuing(ids, text)[:limit]

    def _continuing(self, ids: Sequence[int], text: bytes) -> list[int]:
        end = self.target.text_of(ids[len(ids) - text_tail(ids, self.target, 4) :])
        text = proper(end[complete_length(end) :], text)
        if not text:
            return []
        made, tried = None, -1
        for window in WINDOWS:
            size = stretch(ids, self.target, window, min(REACH, len(ids)))
            if size == tried:
                break
            tried, last = size, ids[len(ids) - size :]
            before = self.target.text_of(last)
            made = continuing(self.target, before, last, text)
            if made is not None or before[:1].isspace():  # tokenizers begin afresh at white space: a longer stretch ends the same
                break
        made = made if made is not None else alone(self.target, text)
        return made.ids[: made.lost]


def _plain(ids: Ids | Sequence[int], vocabulary: ByteVocabulary) -> list[int]:
    """The ids as a list, if they are that vocabulary's."""
    return ids.plain(vocabulary).tolist() if isinstance(ids, Ids) else list(vocabulary.check(ids))
