"""Any Hugging Face causal language model as a `Target` and as a drafting `Model`. The model's own code and weights are used as they are.

Every forward is one shape: the ids that are not cached yet, aligned to the right so that the last of them (the root) is in the same
column for every row, followed by the draft nodes. What is cached is found by common prefix, compared from the length that is known to agree;
accepted draft nodes are found by walking the last tree along the new ids. So no caller has to tell what was accepted.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from anydraft.core.errors import BadPrompt
from anydraft.core.processors import Laws
from anydraft.core.records import Context, Draft, Scores
from anydraft.core.tree import ancestors
from anydraft.engine.attention import additive, layer_windows, longest_text, refuse_unsupported, windowed, with_tree
from anydraft.engine.cuda_graphs import CudaGraphs
from anydraft.engine.graphs import Recorder
from anydraft.engine.groups import groups
from anydraft.engine.head import HeadRows
from anydraft.engine.held import Row, Tree, common_prefix
from anydraft.engine.probe import probe
from anydraft.engine.products import suited
from anydraft.engine.slots import Plan, SlotCache, bucket, power

PRICE = 64  # columns that take a CPU as long as what a forward costs whatever its size
PRICE_ACCELERATOR = 1024  # where a wide forward costs little more than a narrow one


class TransformersModel:
    """A causal language model with slots.

    Args:
        model: a `PreTrainedModel`; never changed.
        chunk: most tokens of a prompt in one forward.
        head_ids: i64[I]; compute the logits of these ids only, from their rows of the head. None: all.
    Raises:
        UnsupportedModel: its state cannot be rolled back or masked, or it is in training mode.
    """

    def __init__(self, model: Any, *, chunk: int = 512, head_ids: Tensor | None = None):
        refuse_unsupported(model)
        self.model, self.chunk = model, chunk
        self.windows = layer_windows(model.config)
        text = model.config.get_text_config(decoder=True)
        self.max_length = longest_text(text)
        self._layers = text.num_hidden_layers
        head = model.get_output_embeddings()
        self.vocab_size: int = head.weight.shape[0] if head is not None else text.vocab_size
        self.device = model.get_input_embeddings().weight.device
        self.dtype = model.dtype
        self._price = PRICE if self.device.type == "cpu" else PRICE_ACCELERATOR
        self.forwards = 0
        self.offers_hidden = False  # whether `hidden` f[B, D] holds the last column's final hidden state after each forward
        self.hidden: Tensor | None = None
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._head = None if head_ids is None else HeadRows(model, head_ids)
        self._view: TransformersModel | None = None
        run, output = (model, "logits") if self._head is None else (self._head.body, "last_hidden_state")
        self._cache = self._spare = None
        self._products = suited(model)
        kinds = tuple(self.windows)
        # a recording holds nothing of any text and serves every engine of a model; a graph writes to one engine's slots
        self._keeps_slots = on_gpu = self.device.type == "cuda"
        self._recorder: Any = CudaGraphs(model, run, kinds, output) if on_gpu else Recorder.of(model, run, kinds, output, self._products)
        self._grain = power if on_gpu else bucket  # a graph for every bucket of slots would be too many
        self.reset()
        if head_ids is None:
            probe(self)

    def restricted(self, ids: Tensor) -> TransformersModel:
        """This model with the logits of ids i64[I] only. The same weights, rows of its own; kept, so that asking again costs nothing."""
        held = self._view
        if held is None or held._head is None or not torch.equal(held._head.ids, ids):
            held = self._view = TransformersModel(self.model, chunk=self.chunk, head_ids=ids)
        return held

    def reset(self) -> None:
        """Forgets all rows and frees the slots, but on a GPU: graphs write to them, and so may the next texts."""
        if self._keeps_slots and self._cache is not None:
            self._spare = self._cache
        self._cache: SlotCache | None = None
        self._counting = torch.empty(0, dtype=torch.int64)
        self._rows: list[Row] = []
        self._tree = Tree([], [])
        self._laws = Laws()
        self._recorder.refresh()
        if self._view is not None:
            self._view.reset()

    # -- Target ------------------------------------------------------------------------------------------------------

    def open(self, context: Context) -> None:
        """Brings the cache to all ids but the last of each row, in chunks."""
        with torch.inference_mode():
            self._locate(context)
            behind = [int(n) - 1 - row.length for n, row in zip(context.length, self._rows)]
            if max(behind) > 0:
                self._catch_up(context, most=1)

    def score(self, context: Context, draft: Draft) -> Scores:
        """One forward over what is not cached and the draft's nodes."""
        with torch.inference_mode():
            self._locate(context)
            self._catch_up(context, most=self.chunk)
            # a chain's parents are known here; fetching them would make the forward wait for the draft
            parent = torch.arange(-1, draft.nodes - 1).expand(draft.tokens.shape) if draft.chain else draft.parent.cpu()
            tokens = draft.tokens.to(self.device)
            logits = self._forward(context, tokens.clamp_min(0), parent, draft.chain)
        return Scores(law=self._laws.of(logits, context, draft), logits=logits)

    def plain(self, context: Context) -> Tensor | None:
        """Rows that must not speculate; see `Laws.plain`."""
        return self._laws.plain(context)

    # -- Model -------------------------------------------------------------------------------------------------------

    def next(self, context: Context) -> Tensor:
        """See `Model.next`."""
        with torch.inference_mode():
            self._locate(context)
            self._catch_up(context, most=self.chunk)
            none = torch.zeros(context.size, 0, dtype=torch.int64)
            return self._forward(context, none.to(self.device), none, True)[:, 0]

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See `Model.grow`. Nodes beyond the model's positions get logits that are never used."""
        with torch.inference_mode():
            return self._grow(tokens.to(self.device), parent.cpu())

    # -- where things are --------------------------------------------------------------------------------------------

    def _locate(self, context: Context) -> None:
        """Makes row b of the cache row b of the context, and finds how much of it is cached."""
        lengths = context.length.tolist()
        length = max(lengths)
        if self.max_length is not None and length > self.max_length:
            raise BadPrompt("the text is longer than the model's context", got=length, expected=f"at most {self.max_length} tokens")
        slots = context.slot.tolist()
        if slots != [row.slot for row in self._rows]:
            self._rearrange(slots)
        tree = self._tree.host() if self._tree.nodes else None
        for b, (row, request, final, committed) in enumerate(zip(self._rows, context.requests, lengths, context.committed.tolist())):
            ids, end = context.ids[b], final - 1
            start = min(row.known, committed, row.length, end) if row.request is request else 0
            same = common_prefix(row.ids, ids, start, min(row.length, end))
            if tree is not None and same == row.length and same == self._tree.base[b]:
                path = tree.walk(b, ids[same:end].tolist())
                if path and self._cache is not None:
                    self._cache.gather(b, [same + n for n in path], same)
                    same += len(path)
            row.request, row.known = request, min(committed, same)
            row.write(ids, same, end + 1)
            row.length = same
        self._tree = Tree([], [])

    def _rearrange(self, slots: list[int]) -> None:
        held = {row.slot: i for i, row in enumerate(self._rows)}
        if self._cache is not None and self._rows:
            used = max([row.length for row in self._rows] + [b + self._tree.nodes for b in self._tree.base])
            self._cache.resize(len(slots), 0)
            self._cache.arrange([held.get(slot, 0) for slot in slots], used)
        self._tree = self._tree.rows([held.get(slot, -1) for slot in slots])
        self._rows = [self._rows[held[slot]] if slot in held else Row(slot) for slot in slots]

    def _reserve(self, context: Context, nodes: int) -> SlotCache:
        """Slots for the rows' ids and `nodes` more, doubling towards the requests' limits."""
        need = int(context.length.max()) + nodes + 1
        if self._cache is None:
            room = max(need, min(int(context.limit.max()) + nodes + 1, 2 * need + 256))
            self._cache = self._taken(context.size, room) or SlotCache(self._layers, context.size, self._grain(room))
        elif need > self._cache.capacity or context.size > self._cache.rows:
            grown = self._cache.capacity if need <= self._cache.capacity else max(bucket(need), 2 * self._cache.capacity)
            self._cache.resize(context.size, grown)
        return self._cache

    def _taken(self, rows: int, room: int) -> SlotCache | None:
        """The slots of earlier texts, if there are enough of them and not far too many; else they are given up."""
        held, self._spare = self._spare, None
        if held is None or held.rows != rows or not room <= held.capacity <= 2 * self._grain(room):
            return None
        held.clear()
        return held

    # -- forwards ----------------------------------------------------------------------------------------------------

    def _catch_up(self, context: Context, most: int) -> None:
        """Feeds what is not cached, until at most `most` ids per row are left and one forward over them is not mostly padding."""
        lengths = context.length.tolist()
        while True:
            behind = [n - row.length for n, row in zip(lengths, self._rows)]
            parts = groups(behind, self._price)
            if len(parts) == 1 and max(behind) <= most:
                return
            leave = min(most, behind[parts[-1][0]])  # the shortest rows are read by the forward that everybody takes part in
            take = [min(self.chunk, n - leave) for n in behind]
            for rows in groups(take, self._price):
                self._feed(context, sorted(rows), take)

    def _feed(self, context: Context, rows: list[int], take: list[int]) -> None:
        """Reads the next take[b] ids of each of these rows b, in one forward."""
        cache = self._reserve(context, 0)
        some = None if rows == list(range(len(rows))) else rows
        starts = [self._rows[b].length for b in rows]
        ends = [start + take[b] for start, b in zip(starts, rows)]
        tokens, slots = _aligned(context.ids[: len(rows)] if some is None else context.ids[rows], starts, ends, cache.padding)
        used = min(self._grain(max(ends)), cache.capacity)
        self._run(cache, tokens.to(self.device), used, 1, _shared(starts) if slots is None else slots, rows=some)
        for b, end in zip(rows, ends):
            self._rows[b].length = end

    def _forward(self, context: Context, tokens: Tensor, parent: Tensor, chain: bool) -> Tensor:
        """f[B, 1 + N, V]: feeds what is left of the context and N nodes; logits of the root and of the nodes. parent is on the host."""
        nodes = tokens.shape[1]
        cache = self._reserve(context, nodes)
        starts, ends = [row.length for row in self._rows], context.length.tolist()
        ids, slots = _aligned(context.ids, starts, ends, cache.padding)
        base = context.length[:, None]
        where = _shared(starts) if slots is None else torch.cat([slots, base + torch.arange(nodes)], 1)
        used = min(self._grain(max(ends) + nodes), cache.capacity)
        above = None if chain else ancestors(parent)
        fed = torch.cat([ids.to(self.device), tokens], 1) if nodes else ids.to(self.device)
        logits = self._run(cache, fed, used, 1 + nodes, where, base, above)
        for row, end, committed in zip(self._rows, ends, context.committed.tolist()):
            row.length, row.known = end, min(end, committed)
        self._tree = Tree(ends, [(tokens, parent)])
        return logits

    def _grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        assert self._cache is not None
        base, held, new = self._tree.base, self._tree.nodes, tokens.shape[1]
        need = max(base) + held + new + 1
        if need > self._cache.capacity:
            self._cache.resize(0, max(bucket(need), 2 * self._cache.capacity))
        self._tree = self._tree.grown(tokens, parent)
        used = min(self._grain(need - 1), self._cache.capacity)
        above = None if self._tree.is_chain else ancestors(self._tree.parent)
        column, start = torch.tensor(base)[:, None], _shared(base)
        where = start + held if start is not None else column + held + torch.arange(new)
        return self._run(self._cache, tokens, used, new, where, column, above)

    def _run(
        self,
        cache: SlotCache,
        tokens: Tensor,
        used: int,
        keep: int,
        where: Any,
        base: Tensor | None = None,
        above: Tensor | None = None,
        rows: list[int] | None = None,
    ) -> Tensor:
        """One call of the user's model: f[B, keep, V], the logits of the last `keep` columns.

        Args:
            tokens: i64[B, C] device. where: the slots that they are written to, i64[B, C] host; or an int, the first of C
                consecutive slots that are the same in every row, which needs no padding and no transfer.
            base: i64[B, 1] host, slot of the first tree node; above: bool[B, N, N] host, the whole tree's ancestry, whose last
                nodes are the last columns. Without it every token sees the slots up to its own.
            rows: the rows of the cache that are fed, in rising order; None: the first B.
        """
        place = self._places(used)
        if isinstance(where, int):
            end = where + tokens.shape[1]
            cache.plan = Plan.consecutive(where, used, self.device, rows)
            slots = self._places(end)[None, where:end].expand(len(tokens), -1)
            allowed, last = (place <= slots[:1, :, None]).expand(len(tokens), -1, -1), end
        else:
            cache.plan = Plan(where, used, self.device, rows)
            slots = where.to(self.device, non_blocking=True)
            allowed, last = (place <= slots[:, :, None]) & (slots < cache.padding)[:, :, None], cache.capacity
        position, key = slots, place.expand(len(tokens), -1)
        if above is not None and base is not None:
            allowed, position, key = with_tree(allowed, slots, key, base.to(self.device), above.to(self.device))
        if not isinstance(where, int):
            # padding stands at 0: a far position would lengthen what rotary embeddings of the dynamic kinds take for the text
            position = position.masked_fill(slots == cache.padding, 0)
        if self.max_length is not None and last > self.max_length:
            position = position.clamp_max(self.max_length - 1)
        masks = {}
        for kind, window in self.windows.items():
            seen = allowed if window is None else windowed(allowed, position, key, window)
            masks[kind] = additive(seen, self.dtype)
        self.forwards += 1
        if not self.offers_hidden and rows is None:  # a recording writes to the first rows
            to = slots[0] if isinstance(where, int) else slots
            made = self._recorder.replay(
                cache, tokens, list(masks.values()), position, to, used, lambda: self._call(cache, tokens, masks, position, 0)
            )
            if made is not None:
                return made[:, -keep:] if self._head is None else self._logits(made[:, -keep:])
        made = self._call(cache, tokens, masks, position, keep)[:, -keep:]
        return made if self._head is None else self._logits(made)

    def _logits(self, hidden: Tensor) -> Tensor:
        """f[B, M, I] from last hidden states f[B, M, D], where the head is ours."""
        assert self._head is not None
        with self._products:
            return self._head.logits(hidden)

    def _call(self, cache: SlotCache, tokens: Tensor, masks: dict[str, Tensor], position: Tensor, keep: int) -> Tensor:
        """The user's model as it is: logits, or last hidden states where the head is ours, of at least the last `keep` columns; 0: of all."""
        run: Any = self.model if self._head is None else self._head.body
        seen: list[Tensor] = []
        # asked for its hidden states, transformers leaves hooks on the user's model for good
        head = self.model.get_output_embeddings() if self.offers_hidden and self._head is None else None
        asks = self.offers_hidden and self._head is None and head is None
        with self._products, _listening(head, seen):
            output: Any = run(
                input_ids=tokens,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                **({"logits_to_keep": keep} if self._keeps and self._head is None else {}),
                **({"output_hidden_states": True} if asks else {}),
            )
        if self.offers_hidden:
            self.hidden = (output.last_hidden_state if self._head is not None else output.hidden_states[-1] if asks else seen[-1])[:, -1]
        return output.logits if self._head is None else output.last_hidden_state

    def _places(self, end: int) -> Tensor:
        """i64[end] on the device: 0, 1, 2, ...; kept, because every forward needs it."""
        if end > len(self._counting):
            self._counting = torch.arange(bucket(2 * end), device=self.device)
        return self._counting[:end]


@contextlib.contextmanager
def _listening(head: Any, seen: list[Tensor]) -> Iterator[None]:
    """Within it, what a layer is given by this thread goes to `seen` as well; afterwards the layer is as it was."""
    if head is None:
        yield
        return
    here = threading.get_ident()

    def hear(_: Any, given: Any) -> None:
        if threading.get_ident() == here:
            seen.append(given[0])

    hook = head.register_forward_pre_hook(hear)
    try:
        yield
    finally:
        hook.remove()


def _shared(starts: list[int]) -> int | None:
    """The start that all rows have, None if they differ."""
    return starts[0] if starts.count(starts[0]) == len(starts) else None


def _aligned(ids: Tensor, starts: list[int], ends: list[int], padding: int) -> tuple[Tensor, Tensor | None]:
    """Ids and slots i64[B, C] of [start, end) of each row of ids i64[B, S], aligned to the right; padding goes to the padding slot.

    Slots are None where all rows have the same start and end: consecutive, and nothing is padded.
    """
    if _shared(starts) is not None and _shared(ends) is not None:
        return ids[:, starts[0] : ends[0]], None
    width = max(e - s for s, e in zip(starts, ends))
    tokens = torch.zeros(len(starts), width, dtype=torch.int64)
    slots = torch.full_like(tokens, padding)
    for b, (start, end) in enumerate(zip(starts, ends)):
        if end > start:
            tokens[b, width - (end - start) :] = ids[b, start:end]
            slots[b, width - (end - start) :] = torch.arange(start, end)
    return tokens, slots
