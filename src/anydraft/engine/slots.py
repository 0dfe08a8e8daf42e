"""KV in preallocated slots: one region per row, each row at its own offset, given to the unmodified model as its cache.

Draft nodes are written behind the committed part, whatever their tree looks like; accepting a path gathers it in place, and rolling back
is one number. Nothing is concatenated or re-aligned when rows accept different lengths. A slot's index is its token's position, except for
draft nodes, whose position is their depth in the tree.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BUCKET = 64  # attention reads whole buckets of slots, so that few shapes occur


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values f[R, H, S, D]; told by its cache where this forward writes and how much it reads."""

    is_sliding = False  # a window is applied by the mask, never by dropping slots

    def __init__(self, cache: SlotCache):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates for the first forward's shapes."""
        rows, capacity = self.cache.rows, self.cache.capacity

        def room(states: Tensor) -> Tensor:
            return states.new_zeros(rows, states.shape[1], capacity, states.shape[3])

        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = room(key_states), room(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes f[B, H, T, D] and returns what may be attended to, f[B, H, used, D]: views, unless scattered rows are fed."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self.cache.plan
        batch, _, width, _ = key_states.shape
        rows = slice(batch) if plan.rows is None else plan.rows if isinstance(plan.rows, slice) else plan.rows.to(self.keys.device)
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            if plan.start is not None:
                held[rows, :, plan.start : plan.start + width] = new
            else:
                held[plan.row_index.to(held.device), :, plan.slots.to(held.device)] = new.transpose(1, 2)
        return self.keys[rows, :, : plan.used], self.values[rows, :, : plan.used]

    def get_seq_length(self) -> int:
        """Positions are explicit; a model that asks is told nothing is cached."""
        return 0

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The mask is explicit; this is its width."""
        return self.cache.plan.used, 0

    def get_max_cache_shape(self) -> int:
        """No bound of its own (the name that older releases use)."""
        return -1


class Plan:
    """Where one forward writes: which rows, and a common contiguous start if there is one, else a slot per token."""

    __slots__ = ("start", "slots", "rows", "row_index", "used")

    def __init__(self, slots: Tensor, used: int, device: torch.device, rows: list[int] | None = None):
        """slots: i64[B, T] host; used: slots that attention reads; rows: of the cache, None for the first B."""
        first = slots[0]
        steps = first[-1] - first[0] + 1 == len(first) and bool((first[1:] > first[:-1]).all())
        self.start = int(first[0]) if steps and (len(slots) == 1 or bool((slots == first).all())) else None
        self.used, self.rows = used, _indexed(rows, device)
        self.slots = self.row_index = None
        if self.start is None:
            self.slots = slots.to(device, non_blocking=True)
            self.row_index = (torch.arange(len(slots), device=device) if rows is None else torch.tensor(rows, device=device))[:, None]

    @classmethod
    def consecutive(cls, start: int, used: int, device: torch.device, rows: list[int] | None = None) -> Plan:
        """The same consecutive slots in every row, from `start`: of the slots, nothing on the device needs to know."""
        plan = cls.__new__(cls)
        plan.start, plan.used, plan.rows = start, used, _indexed(rows, device)
        plan.slots = plan.row_index = None
        return plan


def _indexed(rows: list[int] | None, device: torch.device) -> slice | Tensor | None:
    """Rising row numbers as an index; neighbours as a slice, so that reading them copies nothing."""
    if rows is None:
        return None
    return slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else torch.tensor(rows, device=device)


class SlotCache(Cache):
    """A `Cache` of `rows` x `capacity` slots. The last slot is where padding is written; nobody attends to it."""

    def __init__(self, layers: int, rows: int, capacity: int):
        self.rows, self.capacity = rows, capacity
        self.plan: Any = None
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    @property
    def padding(self) -> int:
        """The slot for padding."""
        return self.capacity - 1

    def _tensors(self) -> list[tuple[Any, str, Tensor]]:
        held: list[tuple[Any, str, Any]] = [(layer, name, getattr(layer, name)) for layer in self.layers for name in ("keys", "values")]
        return [(layer, name, tensor) for layer, name, tensor in held if tensor is not None]

    def clear(self) -> None:
        """Zeros everywhere: what one text left must not reach the next, and a NaN would, through a weight of 0."""
        for _, _, held in self._tensors():
            held.zero_()

    def resize(self, rows: int, capacity: int) -> None:
        """Grows to at least this many rows and slots; what is held stays where it is."""
        rows, capacity = max(rows, self.rows), max(capacity, self.capacity)
        if (rows, capacity) == (self.rows, self.capacity):
            return
        for layer, name, old in self._tensors():
            new = old.new_zeros(rows, old.shape[1], capacity, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(layer, name, new)
        self.rows, self.capacity = rows, capacity

    def arrange(self, order: list[int], used: int) -> None:
        """Row i becomes what row order[i] was; only the first `used` slots matter."""
        if order == list(range(len(order))):
            return
        for layer, name, held in self._tensors():
            at = torch.tensor(order, device=held.device)
            held[: len(order), :, :used] = held[at, :, :used]

    def gather(self, row: int, source: list[int], start: int) -> None:
        """Copies slots `source` of a row to `start` and the slots behind it: an accepted path moves to the front."""
        if source == list(range(start, start + len(source))):
            return
        for _, _, held in self._tensors():
            at = torch.tensor(source, device=held.device)
            held[row, :, start : start + len(source)] = held[row].index_select(1, at)


def power(n: int) -> int:
    """n rounded up to a power of two, at least four buckets."""
    return max(4 * BUCKET, 1 << (n - 1).bit_length())


def bucket(n: int) -> int:
    """n rounded up to whole buckets."""
    return -(-n // BUCKET) * BUCKET
