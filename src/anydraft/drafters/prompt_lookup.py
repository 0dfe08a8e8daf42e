"""Prompt lookup: copy what followed an earlier occurrence of the last tokens, in the prompt or in the text generated so far.

Source:   Saxena 2023, "Prompt lookup decoding"; LLMA, Yang et al. 2023, arXiv:2304.04487
Kinds:    determined
Needs:    nothing
Cost:     a dictionary look-up per step; no device work
Differs:  the longest suffix that occurs wins and of its occurrences the latest; continuations shorter than asked are used too
"""

from __future__ import annotations

import torch

from anydraft.core.records import Context, Draft, Size
from anydraft.core.roles import Noise
from anydraft.core.rollout import determined_chain


class PromptLookup:
    """Args:
    max_matching_ngram_size: longest suffix that is looked for.
    min_matching_ngram_size: shortest.
    """

    kinds = ("determined",)
    chain = True

    def __init__(self, max_matching_ngram_size: int = 4, min_matching_ngram_size: int = 1):
        self.longest, self.shortest = max_matching_ngram_size, min_matching_ngram_size
        self._index: dict[int, _Index] = {}

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        size = size.clipped(context)
        found = [self._continuation(context, b, k) for b, k in enumerate(size.depth.tolist())]
        self._index = {slot: self._index[slot] for slot in context.slot.tolist()}
        return determined_chain(found)

    def look(self, context: Context) -> torch.Tensor:
        """i64[B]: length of the suffix whose continuation would be copied, 0 where there is none; for a control that chooses."""
        return torch.tensor([self._indexed(context, b).match()[0] for b in range(context.size)])

    def _continuation(self, context: Context, b: int, k: int) -> list[int]:
        return self._indexed(context, b).continuation(k)

    def _indexed(self, context: Context, b: int) -> _Index:
        slot, request = int(context.slot[b]), context.requests[b]
        index = self._index.get(slot)
        if index is None or index.request is not request:
            index = self._index[slot] = _Index(request, self.shortest, self.longest)
        index.follow(context.ids[b], int(context.committed[b]), int(context.length[b]))
        return index


class _Index:
    """Where every n-gram of one request's text last ended, for each n; grows by the new tokens only."""

    def __init__(self, request: object, shortest: int, longest: int):
        self.request, self.sizes = request, range(longest, shortest - 1, -1)
        self.ids: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}  # n-gram -> index just behind its latest occurrence but the one at the very end
        self.final = 0  # how many ids are committed and indexed

    def follow(self, ids: torch.Tensor, committed: int, length: int) -> None:
        """Makes the index that of ids[:length]; only committed ids are indexed, since the others may be revised."""
        del self.ids[self.final :]
        self.ids += ids[self.final : length].tolist()
        for end in range(self.final, committed):  # an n-gram is entered once something follows it
            for n in self.sizes:
                if end >= n:
                    self.ends[tuple(self.ids[end - n : end])] = end
        self.final = max(self.final, committed)

    def match(self) -> tuple[int, int]:
        """(length of the longest suffix that occurred before, index just behind that occurrence); zeros if none did."""
        for n in self.sizes:
            if len(self.ids) > n:
                end = self.ends.get(tuple(self.ids[-n:]))
                if end is not None:
                    return n, end
        return 0, 0

    def continuation(self, k: int) -> list[int]:
        """At most k tokens that followed the longest known suffix."""
        n, end = self.match()
        return self.ids[end : end + k] if n else []


__all__ = ["PromptLookup"]
