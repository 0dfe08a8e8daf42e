"""The drafter's side of an alignment: cut and extend drafter ids until their text is the target's text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from anydraft.core.errors import WrongVocabulary
from anydraft.vocabulary.bytes import ByteVocabulary, Encoded
from anydraft.vocabulary.seams import alone, common, parted, stretch, text_tail
from anydraft.vocabulary.utf8 import complete_length, inside_character

LOOK_BEHIND = 8
"""Drafter ids before the end that are encoded again together with new text, so that the seam is tokenized as in running text."""

SPECIAL = b"\xff"
"""Stands in the text for one special token that both sides know. No UTF-8 text holds this byte."""


@dataclass(slots=True)
class AlignmentState:
    """Where one request stands. Made by `Aligner.start`, changed by `Aligner.sync`, held by the caller.

    Invariant: the drafter ids cover `text[:covered]`; what follows is the beginning of a character that the drafter cannot take yet.
    """

    target_ids: list[int]
    prompt: int  # how many target ids are prompt
    drafter_ids: list[int]
    drafter_ends: list[int]  # where each drafter id ends in `text`, 0 before `floor`
    floor: int  # drafter ids before this one are never changed
    text: bytearray  # the end of the drafter's prompt, then everything generated
    covered: int
    origin: int  # length of `text` at the end of the prompt
    target_ends: list[int] = field(default_factory=list)  # where each generated target token ends in `text`
    special: dict[int, int] = field(default_factory=dict)  # place in `text` -> drafter id of a special token

    @classmethod
    def of_prompt(cls, target_ids: Sequence[int], drafter_ids: Sequence[int], rest: bytes, drafter: ByteVocabulary) -> AlignmentState:
        """A request that is all prompt; `rest` is the beginning of a character that the drafter ids lack."""
        floor = len(drafter_ids) - text_tail(drafter_ids, drafter, 4 * LOOK_BEHIND)
        ends = list(accumulate((len(drafter.table[id] or b"") for id in drafter_ids[floor:]), initial=0))
        text = bytearray(drafter.text_of(drafter_ids[floor:]) + rest)
        return cls(
            target_ids=list(target_ids),
            prompt=len(target_ids),
            drafter_ids=list(drafter_ids),
            drafter_ends=[0] * floor + ends[1:],
            floor=floor,
            text=text,
            covered=ends[-1],
            origin=len(text),
        )

    @property
    def pending(self) -> bytes:
        """Text that the drafter has not seen: the beginning of a character. Draft nothing while there is some."""
        return bytes(self.text[self.covered :])


@dataclass(frozen=True)
class Edit:
    """What a drafter does to its ids: keep the first `keep` (of those it had, drafted ones included), then append."""

    keep: int
    append: list[int]
    pending: bytes  # not empty: the ids lack these bytes of the text


class Follower:
    """One `sync`: remembers the drafter ids it replaces, so that the edit comes out as small as it can be."""

    def __init__(self, drafter: ByteVocabulary, t2d: Sequence[int], state: AlignmentState, drafted: Sequence[int]):
        """`drafted`: ids behind `state.drafter_ids` in the drafter's own memory, not yet confirmed."""
        self.drafter, self.t2d, self.state = drafter, t2d, state
        self.kept = self.had = len(state.drafter_ids)  # ids before `kept` are untouched
        self.replaced = list(drafted)  # what the drafter has behind them

    def edit(self) -> Edit:
        """The difference between what the drafter had and what it should have."""
        new = self.state.drafter_ids[self.kept :]
        same = common(new, self.replaced)
        return Edit(self.kept + same, new[same:], self.state.pending)

    def take_back(self, agree: int) -> None:
        """Forget the target ids from `agree` on, and the drafter ids that reach into their text."""
        state = self.state
        if agree < state.prompt:
            raise WrongVocabulary(
                "an alignment cannot be taken back into its prompt",
                got=f"{agree} ids",
                expected=f"at least the {state.prompt} of the prompt",
                next_step="Make a new state with Aligner.start",
            )
        count = agree - state.prompt
        end = state.target_ends[count - 1] if count else state.origin
        del state.target_ids[agree:], state.target_ends[count:], state.text[end:]
        for place in [place for place in state.special if place >= end]:
            del state.special[place]
        keep = len(state.drafter_ids)
        while keep > state.floor and state.drafter_ends[keep - 1] > end:
            keep -= 1
        if keep < len(state.drafter_ids):
            self._cut(keep)
        state.covered = min(state.covered, end)

    def accept_drafted(self) -> None:
        """Keep the drafted ids whose bytes the text confirms."""
        state = self.state
        if self.kept < self.had:
            return
        for id in self.replaced:
            data = self.drafter.table[id]
            if data is None:
                if state.special.get(state.covered) != id:
                    break
                data = SPECIAL
            elif SPECIAL in data or not state.text.startswith(data, state.covered):
                break
            self._push([id], [state.covered + len(data)])

    def translate(self) -> None:
        """Map the target tokens that are not covered yet one by one; only runs of unmapped ones are encoded."""
        state = self.state
        at = bisect_right(state.target_ends, state.covered)
        while at < len(state.target_ends):
            begin, end = state.target_ends[at - 1] if at else state.origin, state.target_ends[at]
            id = self.t2d[state.target_ids[state.prompt + at]]
            if id >= 0 and begin == state.covered:
                self._push([id], [end])
            elif end > state.covered:
                while at + 1 < len(state.target_ends) and (self._unmapped(at + 1) or inside_character(state.text, end)):
                    at += 1
                    end = state.target_ends[at]
                self.extend(end, rewrite=False)
            at += 1

    def extend(self, upto: int, rewrite: bool) -> None:
        """Encode the text from `covered` to `upto`.

        Args:
            upto: a place in the text.
            rewrite: whether the last drafter ids may be replaced where a token lies across the seam.
        """
        state = self.state
        while state.covered < upto:
            if state.covered in state.special:
                self._push([state.special[state.covered]], [state.covered + 1])
                continue
            stop = min((place for place in state.special if state.covered < place < upto), default=upto)
            whole = stop
            if stop == len(state.text):
                end = bytes(state.text[max(0, state.covered - 3) : stop])
                whole = max(state.covered, stop - len(end) + complete_length(end))
            if state.covered < whole:
                self._encode(whole, rewrite)
            if state.covered < stop:
                spelled = self.drafter.spell(bytes(state.text[state.covered : stop]))
                if spelled is None:
                    return
                self._push(spelled, [state.covered + end for end in self.drafter.ending(spelled).ends])

    def _encode(self, upto: int, rewrite: bool) -> None:
        state = self.state
        while rewrite and inside_character(state.text, state.covered) and len(state.drafter_ids) > state.floor:
            self._cut(len(state.drafter_ids) - 1)
        text = bytes(state.text[state.covered : upto])
        size = stretch(state.drafter_ids, self.drafter, LOOK_BEHIND, min(8 * LOOK_BEHIND, len(state.drafter_ids) - state.floor))
        first = len(state.drafter_ids) - size
        begin = state.drafter_ends[first - 1] if first else 0
        before, ids = bytes(state.text[begin : state.covered]), state.drafter_ids[first:]
        whole = self.drafter.encode(before + text)
        made = parted(whole, len(before), ids)
        if made is not None or not rewrite:
            begin = state.covered
            made = made if made is not None else alone(self.drafter, text)
        else:  # a token lies across the seam: the ids that it swallows are replaced
            same = common(whole.ids, ids)
            self._cut(first + same)
            made = Encoded(whole.ids[same:], whole.ends[same:])
        self._push(made.ids, [begin + end for end in made.ends])
        state.covered = upto  # also where the drafter has no token for some of it

    def _unmapped(self, at: int) -> bool:
        return self.t2d[self.state.target_ids[self.state.prompt + at]] < 0

    def _push(self, ids: Sequence[int], ends: Sequence[int]) -> None:
        if ids:
            self.state.drafter_ids += ids
            self.state.drafter_ends += ends
            self.state.covered = ends[-1]

    def _cut(self, keep: int) -> None:
        state = self.state
        if keep < self.kept:
            self.replaced = state.drafter_ids[keep : self.kept] + self.replaced
            self.kept = keep
        del state.drafter_ids[keep:], state.drafter_ends[keep:]
        state.covered = state.drafter_ends[-1] if keep > state.floor else 0
