"""The drafter's contexts: the same texts as the target's, in the drafter's ids, kept up to date step by step.

Source: Timor et al. 2025, arXiv:2502.05202 (the drafter's prompt is re-tokenized text); the cache is found by common prefix, so a tail that
re-tokenization rewrites costs the forward of that tail and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anydraft.core.records import Context, Request
from anydraft.vocabulary.alignment import Aligner, AlignmentState


@dataclass(slots=True)
class _Row:
    request: Request
    state: AlignmentState
    committed: int  # target ids known to agree with every later context of this request
    stable: int = 0  # drafter ids that no edit has touched since the model last saw them
    drafted: list[int] = field(default_factory=list)  # what the model drafted behind the ids, unconfirmed


class DrafterContexts:
    """Follows the target's contexts.

    Args:
        aligner: relates the two vocabularies.
        direct: translate mapped tokens one by one (token-level methods), or re-encode all new text (string-level ones).
        max_length: ids that the drafter can hold, None for no bound.
    """

    def __init__(self, aligner: Aligner, *, direct: bool, max_length: int | None = None):
        self.aligner, self.direct, self.max_length = aligner, direct, max_length
        self._rows: dict[int, _Row] = {}
        self._slots: list[int] = []
        self._ids = torch.zeros(0, 1, dtype=torch.int64)

    def follow(self, context: Context) -> tuple[Context, Tensor]:
        """The drafter's context for every row, and how many more ids each row may draft.

        Returns:
            (own context, room i64[B]): room is 0 where the text ends inside a character that the drafter cannot take yet, or is longer
            than the drafter's context; the latter's row then holds a stub, so that the others go on.
        """
        slots = context.slot.tolist()
        self._arrange(slots)
        lengths, stable, room = [], [], []
        for b, (slot, request) in enumerate(zip(slots, context.requests)):
            row = self._follow_row(b, slot, request, context)
            length, most = len(row.state.drafter_ids), self.max_length
            fits = length > 0 and (most is None or length < most)
            lengths.append(length if fits else 1)
            stable.append(min(row.stable, length) if fits else 0)
            row.stable = length if fits else 0
            left = 1 << 30 if most is None else most - length
            room.append(left if fits and not row.state.pending else 0)
        self._rows = {slot: self._rows[slot] for slot in slots}
        length = torch.tensor(lengths)
        own = Context(
            ids=self._ids,
            length=length,
            committed=torch.tensor(stable),
            limit=length + 2 * (context.limit - context.length).clamp_min(1),
            step=context.step,
            slot=context.slot,
            requests=context.requests,
        )
        return own, torch.tensor(room)

    def state(self, slot: int) -> AlignmentState:
        """Where a row stands, as `follow` left it."""
        return self._rows[slot].state

    def drafted(self, slot: int, ids: list[int]) -> None:
        """Tells what the model drafted behind a row's ids; those that the next text confirms stay in its cache."""
        self._rows[slot].drafted = ids

    def _follow_row(self, b: int, slot: int, request: Request, context: Context) -> _Row:
        row = self._rows.get(slot)
        written = None
        if row is None or row.request is not request:
            prompt = None if request.drafter_prompt is None else request.drafter_prompt.tolist()
            row = self._rows[slot] = _Row(request, self.aligner.start(request.prompt.tolist(), prompt), len(request.prompt))
            written = 0
        state = row.state
        length, committed = int(context.length[b]), int(context.committed[b])
        start = min(row.committed, committed, length, len(state.target_ids))
        agree = start
        for held, id in zip(state.target_ids[start:], context.ids[b, start:length].tolist()):
            if held != id:
                break
            agree += 1
        new = context.ids[b, agree:length].tolist()
        had = len(state.drafter_ids)
        if new or agree < len(state.target_ids):
            edit = self.aligner.sync(state, new, agree=agree, drafted=row.drafted, direct=self.direct)
            row.stable = min(row.stable, edit.keep, had)
            written = min(edit.keep, had) if written is None else written
            row.drafted = []
        row.committed = max(row.committed, min(committed, length))
        if written is not None:
            self._write(b, state.drafter_ids, written)
        return row

    def _write(self, b: int, ids: list[int], start: int) -> None:
        if len(ids) >= self._ids.shape[1]:
            self._ids = torch.nn.functional.pad(self._ids, (0, 2 * len(ids) + 64 - self._ids.shape[1]))
        self._ids[b, start : len(ids)] = torch.tensor(ids[start:], dtype=torch.int64)

    def _arrange(self, slots: list[int]) -> None:
        if slots == self._slots:
            return
        held = {slot: b for b, slot in enumerate(self._slots)}
        fresh = torch.zeros(len(slots), self._ids.shape[1], dtype=torch.int64)
        for b, slot in enumerate(slots):
            if slot in held:
                fresh[b] = self._ids[held[slot]]
        self._ids, self._slots = fresh, slots
