"""A small model's forward without Python: the operations of one decoding forward, recorded once and replayed by libtorch's interpreter.

For a model of some ten million parameters, more time goes into calling Python modules than into arithmetic. A recording runs the very same kernels
in the same order on the same weights, so its logits are the same bits; no compiler is needed and recording takes about as long as a dozen forwards.

A recording keeps whatever Python decided while it was made. Hence it is only made for architectures whose forward decides nothing from
values, never for a model with hooks, and every number of columns is first run both ways: where a single bit differs, forwards
of that many stay with the model itself.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from anydraft.engine.products import Products

RECORDED = frozenset(
    ("llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "phi", "gemma2", "gemma3_text", "olmo2", "starcoder2", "stablelm")
)
"""Values of `config.model_type` whose forward has no control flow that depends on values (no routing to experts)."""

STATIC_ROPE = {"default", "linear", "llama3", "yarn"}  # the others change with the length of the text

AFTER = 12  # forwards before it pays to record
WIDEST = 48  # columns beyond which a forward is arithmetic, not calls
CHECKS = 2  # batches and widths of attention that each number of columns is checked at before it is trusted


class _Layer(CacheLayerMixin):
    """Writes by index into slots that are arguments of the recording."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, batch: int, slots: Tensor, used: int):
        super().__init__()
        self.held, self.batch, self.slots, self.used = (keys, values), batch, slots, used
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As `SlotLayer.update`."""
        rows = [held[: self.batch] for held in self.held]
        for held, new in zip(rows, (key_states, value_states)):
            if self.slots.ndim == 1:
                held.index_copy_(2, self.slots, new)
            else:
                held[torch.arange(self.batch, device=held.device)[:, None], :, self.slots] = new.transpose(1, 2)
        return rows[0][:, :, : self.used], rows[1][:, :, : self.used]

    def get_seq_length(self) -> int:
        """As `SlotLayer`: positions are explicit."""
        return 0

    def get_max_length(self) -> int:
        """No bound."""
        return -1

    get_max_cache_shape = get_max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As `SlotLayer`: the mask is explicit."""
        return self.used, 0


class Recorder:
    """Replays forwards of `run`, a model or its body, where that is proved to give the same bits. Holds nothing of any text.

    Args:
        model: whose weights and hooks decide whether a recording still stands. kinds: names of its masks.
        output: the attribute of the result that is wanted. products: entered while the model runs, see products.py.
    """

    def __init__(self, model: Any, run: Any, kinds: tuple[str, ...], output: str, products: Products):
        self.model, self.run, self.kinds, self.output, self.products = model, run, kinds, output, products
        self.possible = isinstance(run, torch.nn.Module) and decides_nothing(model) and all(p.device.type == "cpu" for p in model.parameters())
        self._stamp: Any = None
        self._lock = threading.Lock()  # replicas in threads share one
        self.forget()

    @classmethod
    def of(cls, model: Any, run: Any, kinds: tuple[str, ...], output: str, products: Products) -> Recorder:
        """The recorder that all engines around this model share: a recording's code takes tens of MB, whatever the size of the weights."""
        key = (id(run), kinds, output, type(products))
        held = _recorders.get(key)
        if held is None or held.run is not run or held.model is not model:
            held = _recorders[key] = cls(model, run, kinds, output, products)
        return held

    def forget(self) -> None:
        """Drops the recording."""
        self._recordings: dict[int, Any] = {}  # by the dimensions of `slots`: rows that write to the same slots, and ragged ones
        self._seen = 0
        self._agreed: dict[tuple[int, int], set[tuple[int, int]]] = {}  # columns and dimensions of slots: batches and slots in use
        self._refused: set[tuple[int, int]] = set()

    def refresh(self) -> None:
        """Called between generations: a model that got hooks, or other weights, is recorded anew or not at all."""
        now = stamp(self.model) if self.possible else None
        if now != self._stamp:
            self.forget()
            self._stamp = now

    def replay(
        self, cache: Any, tokens: Tensor, masks: list[Tensor], position: Tensor, slots: Tensor, used: int, eager: Callable[[], Tensor]
    ) -> Tensor | None:
        """The result f[B, C, ...] of one forward; None where the model has to run itself, and nothing was done.

        Args:
            slots: i64[C], where every row writes, or i64[B, C]. used: how many slots attention reads.
            eager: runs the model itself, for a comparison of all C columns.
        """
        shape, room = (tokens.shape[1], slots.ndim), (tokens.shape[0], used)
        if self._stamp is None or shape in self._refused or shape[0] > WIDEST:
            return None
        self._seen += 1
        if self._seen <= AFTER:
            return None
        held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        if any(tensor is None for tensor in held):  # a new cache is allocated by the model's own first forward
            return None
        arguments = (tokens, position, slots, masks, held)
        recording, agreed = self._recordings.get(slots.ndim), self._agreed.get(shape, set())
        if recording is not None and (room in agreed or len(agreed) >= CHECKS):
            with torch.jit.optimized_execution(False):
                return recording(*arguments)
        with self._lock:
            return self._compared(arguments, shape, room, eager)

    def _compared(
        self, arguments: tuple[Any, ...], shape: tuple[int, int], room: tuple[int, int], eager: Callable[[], Tensor]
    ) -> Tensor | None:
        """Runs the model itself and the recording, which is made here if there is none."""
        form = arguments[2].ndim
        if form not in self._recordings:
            self._record(arguments)
        recording = self._recordings.get(form)
        if recording is None:
            return None
        want = eager()
        try:
            with torch.jit.optimized_execution(False):
                same = torch.equal(recording(*arguments), want)
        except RuntimeError:
            same = False
        if not same:
            self._refused.add(shape)
            return None  # the model will write into the same slots
        self._agreed.setdefault(shape, set()).add(room)
        return want

    def _record(self, arguments: tuple[Any, ...]) -> None:
        forward = forward_of(self.run, self.kinds, self.output)
        trainable = [p for p in self.run.parameters() if p.requires_grad]
        try:
            for p in trainable:  # a recording holds no tensor that wants a gradient; given back below
                p.requires_grad_(False)
            with warnings.catch_warnings(), self.products:
                warnings.simplefilter("ignore")
                self._recordings[arguments[2].ndim] = _own(torch.jit.trace(forward, arguments, check_trace=False, strict=False))
        except Exception:  # whatever a model trips over while it is recorded, it still runs as it is
            self._stamp = None
        finally:
            for p in trainable:
                p.requires_grad_(True)


_recorders: weakref.WeakValueDictionary[Any, Recorder] = weakref.WeakValueDictionary()  # as long as an engine holds them


def forward_of(run: Any, kinds: tuple[str, ...], output: str) -> Callable[..., Tensor]:
    """(tokens, position, slots, masks, keys and values of all layers) -> the wanted output: one forward that keeps nothing but what it writes to slots."""

    def forward(tokens: Tensor, position: Tensor, slots: Tensor, masks: list[Tensor], held: list[Tensor]) -> Tensor:
        used = masks[0].shape[-1]
        layers: list[Any] = [_Layer(k, v, tokens.shape[0], slots, used) for k, v in zip(held[::2], held[1::2])]
        mask = dict(zip(kinds, masks)) if len(masks) > 1 else masks[0]
        given = {"attention_mask": mask, "position_ids": position, "past_key_values": Cache(layers=layers), "use_cache": True}
        return getattr(run(input_ids=tokens, **given), output)

    return forward


def _own(traced: Any) -> Any:
    """The same function in a compilation unit of its own: torch keeps every traced function, and with it the weights, until the process ends."""
    held = traced.graph
    made = torch._C._create_function_from_graph("forward", held.copy())
    for place in reversed(range(len(list(held.outputs())))):
        held.eraseOutput(place)
    torch._C._jit_pass_dce_allow_deleting_nodes_with_side_effects(held)
    return made


def decides_nothing(model: Any) -> bool:
    """Whether Python may be left out: an architecture without control flow on values, static rotary embeddings."""
    config = model.config
    text = config.get_text_config(decoder=True)
    ropes = getattr(text, "rope_parameters", None) or {}
    ropes = [ropes, *(r for r in ropes.values() if isinstance(r, dict))]
    static = {r["rope_type"] for r in ropes if "rope_type" in r} <= STATIC_ROPE
    return static and config.model_type in RECORDED and not getattr(model, "is_quantized", False)


def stamp(model: Any) -> Any:
    """Changes when weights are exchanged or moved; None for a model with hooks, which want to be called."""
    if any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "_hf_hook") for m in model.modules()):
        return None
    return tuple((id(p), p.data_ptr()) for p in model.parameters())
