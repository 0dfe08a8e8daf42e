"""Speculation inside transformers' own `generate`: a callable for `model.generate(..., custom_generate=...)`.

`generate` has then prepared everything for its whole batch. Each row becomes a request of its own: transformers' processors are built
again by its own code for a batch of one, the user's objects are kept, and a left-padded row shows them its padding, as in the batch.
Greedy output is that of plain `generate`, token for token; sampled output has its law, with noise of ours, seeded from torch's generator.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import EosTokenCriteria, GenerateDecoderOnlyOutput, MaxLengthCriteria

from anydraft.core.errors import BadModel, BadOption, BadPrompt
from anydraft.core.processors import Behind
from anydraft.core.records import Request, Step
from anydraft.speculator import Speculator

REFUSED = {
    "num_beams": "beam search cannot be sped up losslessly by a draft",
    "num_beam_groups": "beam search cannot be sped up losslessly by a draft",
    "penalty_alpha": "contrastive search is not sampling from a law",
    "dola_layers": "DoLa needs the logits of other layers",
    "guidance_scale": "classifier-free guidance runs the target a second time for every token",
    "output_attentions": "attentions of a step belong to drafted tokens too, and are not kept",
    "output_hidden_states": "hidden states of a step belong to drafted tokens too, and are not kept",
    "prompt_lookup_num_tokens": "the draft is chosen where this callable is made: speculative(prompt_lookup_num_tokens=...)",
}
"""Settings of a generation configuration that are not honoured, and why."""

WARPERS = ("top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "watermarking_config", "renormalize_logits")
"""Settings that act on a sampled law behind the temperature and that requests have no option for."""

KNOWN = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "cache_position"}


def speculative(assistant_model: Any = None, tokenizer: Any = None, *, streamer: Any = None, **options: Any) -> SpeculativeGenerate:
    """A callable for `generate(custom_generate=...)` of any model.

    Args:
        assistant_model, tokenizer, options: as for `Speculator`, with `method` and `num_assistant_tokens`; the tokenizer is the target's.
        streamer: used when the call of `generate` has none.

    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> from anydraft import zoo
    >>> from anydraft.drop_in import speculative
    >>> model = AutoModelForCausalLM.from_pretrained(zoo.path("target"), dtype="float32")
    >>> inputs = AutoTokenizer.from_pretrained(zoo.path("target"))("import os", return_tensors="pt")
    >>> model.generate(**inputs, max_new_tokens=8, custom_generate=speculative(method="prompt_lookup")).shape[1] - inputs.input_ids.shape[1]
    8
    """
    return SpeculativeGenerate(lambda model: Speculator(model, tokenizer, assistant_model, **options), streamer=streamer)


class SpeculativeGenerate:
    """What `speculative` and `Speculator.custom_generate` return. Keeps the Speculator of the last model it was called with."""

    def __init__(self, make: Callable[[Any], Speculator], *, only: Any = None, streamer: Any = None):
        self._make, self._only, self._streamer = make, only, streamer
        self._held: Speculator | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Called by `generate` with what it has prepared: i64[B, S] left-padded ids, processors, criteria, configuration.

        Returns:
            i64[B, S + T], or a `GenerateDecoderOnlyOutput` with return_dict_in_generate.
        Raises:
            BadOption: a setting that cannot be honoured. BadModel: another model than the Speculator's.
        """
        # generate() hands a streamer to its own decoding methods but not to a callable, and a reader of the stream would wait for ever
        streamer = sys._getframe(1).f_locals.get("streamer") or self._streamer
        if self._only is not None and model is not self._only:
            raise BadModel("custom_generate belongs to another model", next_step="Use anydraft.drop_in.speculative(...) for any model")
        if self._held is None or self._held.model is not model:
            self._held = self._make(model)
        batch = _Batch(self._held, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs)
        return batch.run(streamer)


class _Batch:
    """One call."""

    def __init__(self, owner: Speculator, input_ids: Tensor, processors: Any, criteria: Any, config: Any, model_kwargs: dict[str, Any]):
        self.owner, self.model, self.input_ids, self.config = owner, owner.model, input_ids, config
        _refuse(config, model_kwargs)
        self.mask = _left_padding(input_ids, model_kwargs)
        self.padding = (~self.mask).sum(1).tolist()  # ids of padding in front of each row
        self.criteria = list(criteria or ())
        self.own = _own_objects(self.model, config, processors or (), input_ids, self.mask)
        self.pad = _pad_id(config, self.criteria, len(input_ids))
        self.requests = [self._request(b, seed) for b, seed in enumerate(torch.randint(0, 2**62, (len(input_ids),)).tolist())]

    def _request(self, b: int, seed: int) -> Request:
        config, padding = self.config, self.input_ids[b, : self.padding[b]]
        sampled, exotic = bool(config.do_sample), any(_is_set(config, name) for name in WARPERS)
        processors = self._library(b, warped=sampled and exotic)
        ends: set[int] = set()
        for one in self.criteria:
            if isinstance(one, EosTokenCriteria):
                ends |= set(torch.as_tensor(one.eos_token_id).reshape(-1).tolist())
        limits = [c.max_length for c in self.criteria if isinstance(c, MaxLengthCriteria)]
        room = min(limits, default=self.owner.target.max_length or sys.maxsize) - self.input_ids.shape[1]
        if room < 1:
            least = self.input_ids.shape[1] + 1
            raise BadOption("max_length leaves no room for a new token", got=min(limits, default=None), expected=f"at least {least}")
        asked = [c for c in self.criteria if not isinstance(c, (EosTokenCriteria, MaxLengthCriteria))]
        temperature = float(config.temperature if config.temperature is not None else 1.0) if sampled else 0.0
        plain = {"top_k": config.top_k or 0, "top_p": 1.0 if config.top_p is None else config.top_p, "min_p": config.min_p or 0.0}
        return Request(
            prompt=self.input_ids[b, self.padding[b] :].to("cpu", torch.int64),
            max_new_tokens=room,
            seed=seed,
            temperature=1.0 if sampled and exotic else temperature,
            draft_temperature=temperature if exotic else None,
            eos=frozenset(ends),
            logits_processor=tuple(_shown(p, padding) for p in processors),
            stopping_criteria=tuple(_shown(c, padding) for c in asked),
            **(plain if sampled and not exotic else {}),
        )

    def _library(self, b: int, warped: bool) -> LogitsProcessorList:
        """The processors of row b in transformers' order, its own built by its own code for a batch of one; the user's are kept."""
        config = copy.copy(self.config)
        config.do_sample = warped
        mask = None if bool(self.mask.all()) else self.mask[b : b + 1].long()
        row = self.input_ids[b : b + 1]
        allowed = self.own.allowed
        return self.model._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=row.shape[1],
            encoder_input_ids=row,
            prefix_allowed_tokens_fn=None if allowed is None else lambda _, ids: allowed(b, ids),
            logits_processor=LogitsProcessorList(self.own.processors),
            device=row.device,
            model_kwargs={"attention_mask": mask},
        )

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, streamer: Any) -> Any:
        columns, kept = _Columns(streamer, len(self.requests), self.pad), _Kept(self)
        running = self.owner.run(self.requests)
        for step in running.steps():
            kept.add(step)
            for b, slot in enumerate(step.before.slot.tolist()):
                start = int(step.before.length[b])
                columns.add(slot, step.after.ids[b, start : start + int(step.emitted[b])].tolist(), step.finish[b] is not None)
            columns.stream()
        columns.end()
        new = columns.tensor().to(self.input_ids.device)
        sequences = torch.cat([self.input_ids, new], 1)
        if not self.config.return_dict_in_generate:
            return sequences
        fields: dict[str, Any] = {"sequences": sequences, "scores": kept.scores(sequences), "logits": kept.logits()}
        return GenerateDecoderOnlyOutput(**fields)


def _shown(thing: Any, padding: Tensor) -> Any:
    return Behind(thing, padding) if len(padding) else thing


class _Own:
    """What the user handed to `generate`."""

    def __init__(self, processors: list[Any], allowed: Callable[[int, Tensor], list[int]] | None):
        self.processors, self.allowed = processors, allowed


def _own_objects(model: Any, config: Any, prepared: Any, input_ids: Tensor, mask: Tensor) -> _Own:
    """Tells the user's processors from those that `generate` made: the user's are of a type, or hold a value, that it would not make."""
    plain = {"attention_mask": None if bool(mask.all()) else mask.long()}
    made = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=input_ids.shape[1],
        encoder_input_ids=input_ids,
        logits_processor=LogitsProcessorList(),
        device=input_ids.device,
        model_kwargs=plain,
    )
    own, allowed = [], None
    for processor in prepared:
        same = next((m for m in made if type(m) is type(processor)), None)
        if same is not None and _alike(vars(same), vars(processor)):
            continue
        if type(processor).__name__ == "PrefixConstrainedLogitsProcessor":
            allowed = processor._prefix_allowed_tokens_fn
        else:
            own.append(processor)
    return _Own(own, allowed)


def _alike(a: Any, b: Any) -> bool:
    """Equal values, tensors by content."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, torch.Generator) and isinstance(b, torch.Generator):
        return True  # a watermark seeds it from the ids at every call
    try:
        return a is b or bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_set(config: Any, name: str) -> bool:
    value = getattr(config, name, None)
    neutral = {"num_beams": 1, "num_beam_groups": 1, "guidance_scale": 1, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    return value is not None and value is not False and value != neutral.get(name, 0)


def _refuse(config: Any, model_kwargs: dict[str, Any]) -> None:
    for name, why in REFUSED.items():
        if _is_set(config, name):
            step = "Leave it out, or call generate without custom_generate"
            raise BadOption(f"{name} is not honoured inside generate: {why}", got=getattr(config, name), next_step=step)
    foreign = sorted(name for name, value in model_kwargs.items() if name not in KNOWN and value is not None)
    if foreign:
        expected = "input_ids and attention_mask"
        raise BadOption("generate was given inputs that a draft cannot follow", got=", ".join(foreign), expected=expected)
    cache = model_kwargs.get("past_key_values")
    held = 0 if cache is None else int(cache.get_seq_length())
    if held:
        raise BadOption("a cache that already holds tokens is not honoured", got=f"{held} tokens", next_step="Leave past_key_values out")


def _left_padding(input_ids: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
    """bool[B, S]: which ids are text. Raises BadPrompt for masks and positions that are not those of left padding."""
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise BadPrompt("generate was given no input_ids", got=tuple(input_ids.shape), expected="[batch, length] with at least one token")
    given = model_kwargs.get("attention_mask")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if given is None else given.bool()
    if mask.shape != input_ids.shape or not bool(mask[:, -1].all()) or bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        step = "Set tokenizer.padding_side = 'left'"
        raise BadPrompt("the attention_mask has holes or right padding", expected="left padding only", next_step=step)
    positions = model_kwargs.get("position_ids")
    if positions is not None:
        usual = (mask.long().cumsum(-1) - 1).to(positions.device)
        if bool(((positions != usual) & mask.to(positions.device)).any()):
            raise BadOption("position_ids that do not follow from the attention_mask are not honoured", next_step="Leave them out")
    return mask


def _pad_id(config: Any, criteria: list[Any], batch: int) -> int:
    pad = getattr(config, "_pad_token_tensor", None)
    if pad is not None:
        return int(pad.reshape(-1)[0])
    if batch > 1 and any(not isinstance(c, MaxLengthCriteria) for c in criteria):
        step = "Set generation_config.pad_token_id"
        raise BadOption("rows may end at different lengths and there is nothing to pad them with", next_step=step)
    return 0


class _Columns:
    """New tokens of every row; gives a streamer whole columns of the batch in order, as `generate` does."""

    def __init__(self, streamer: Any, batch: int, pad: int):
        self.streamer, self.pad = streamer, pad
        self.rows: list[list[int]] = [[] for _ in range(batch)]
        self.open = [True] * batch
        self._told = 0

    def add(self, row: int, tokens: list[int], ended: bool) -> None:
        self.rows[row] += tokens
        self.open[row] = not ended

    def stream(self) -> None:
        """Gives the columns that every open row has reached."""
        if self.streamer is None:
            return
        reached = min([len(row) for row, open_ in zip(self.rows, self.open) if open_], default=max(map(len, self.rows)))
        for at in range(self._told, reached):
            self.streamer.put(torch.tensor([row[at] if at < len(row) else self.pad for row in self.rows]))
        self._told = max(self._told, reached)

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()

    def tensor(self) -> Tensor:
        """i64[B, T], padded behind the rows' ends."""
        longest = max(map(len, self.rows))
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in self.rows], dtype=torch.int64)


class _Kept:
    """Raw logits of every emitted token, if they were asked for; the scores are made of them by each row's own processors."""

    def __init__(self, batch: _Batch):
        self.batch, config = batch, batch.config
        wanted = bool(config.return_dict_in_generate)
        self.want_scores, self.want_logits = wanted and bool(config.output_scores), wanted and bool(config.output_logits)
        if self.want_scores and (batch.own.processors or batch.own.allowed):
            raise BadOption(
                "output_scores would call your own processors a second time for every token",
                next_step="Use output_logits=True, or leave the processors out",
            )
        self.rows: list[list[Tensor]] = [[] for _ in batch.requests]

    def add(self, step: Step) -> None:
        if not (self.want_scores or self.want_logits):
            return
        for b, slot in enumerate(step.before.slot.tolist()):
            at = ([0] + [node + 1 for node in step.path[b]])[: int(step.emitted[b])]
            self.rows[slot] += list(step.scores.logits[b, at].float())

    def logits(self) -> tuple[Tensor, ...] | None:
        """f[B, V] per column; 0 behind a row's end."""
        return self._columns(self.rows) if self.want_logits else None

    def scores(self, sequences: Tensor) -> tuple[Tensor, ...] | None:
        """The same after the processors and, when sampling, the warpers."""
        if not self.want_scores:
            return None
        batch, start = self.batch, self.batch.input_ids.shape[1]
        made = []
        for b, row in enumerate(self.rows):
            chain: Any = batch._library(b, warped=bool(batch.config.do_sample))
            made.append([chain(sequences[b : b + 1, : start + t], logits[None].clone())[0] for t, logits in enumerate(row)])
        return self._columns(made)

    @staticmethod
    def _columns(rows: list[list[Tensor]]) -> tuple[Tensor, ...]:
        none = torch.zeros_like(next(row for row in rows if row)[0])
        longest = max(map(len, rows))
        return tuple(torch.stack([row[t] if t < len(row) else none for row in rows]) for t in range(longest))


__all__ = ["SpeculativeGenerate", "speculative"]
