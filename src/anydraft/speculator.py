"""The facade that users hold: load two models, generate, stream."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anydraft.aliases import resolve
from anydraft.build import Parts, assemble, assemble_several, chooses
from anydraft.core.errors import BadModel, BadOption, BadPrompt
from anydraft.core.metrics import Metrics
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Request, Step
from anydraft.core.stopping import Stopping
from anydraft.deploy import schedule_for
from anydraft.engine.transformers import TransformersModel
from anydraft.options import Options, as_ids
from anydraft.pairing import Assistant, Choice, choices, is_free, several
from anydraft.planning.profile import Profile

if TYPE_CHECKING:
    from anydraft.drop_in import SpeculativeGenerate


@dataclass(slots=True)
class Generation:
    """One finished text."""

    text: str
    token_ids: list[int]  # generated only; the token that completed a stop string and the eos token are kept
    prompt_token_ids: list[int]
    finish_reason: str | None  # "stop", "length", or "interrupted"
    metrics: Metrics
    stop_reason: str | int | None = None  # the stop string or the id that ended the text
    logprobs: list[TokenLogprobs] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; `metrics` in vLLM's shape."""
        names = ("text", "token_ids", "prompt_token_ids", "finish_reason", "stop_reason")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.logprobs is not None:
            plain["logprobs"] = [{"token_id": t.token_id, "logprob": t.logprob, "top": [list(p) for p in t.top]} for t in self.logprobs]
        return plain | {"metrics": self.metrics.as_dict()}


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's log-probability under the target before any processor, and the most likely alternatives (id, logprob)."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to one request."""

    request: int
    text: str  # text that became certain; a possible beginning of a stop string is held back
    token_ids: list[int]
    proposers: list[str]  # of each token: the drafter's name, or "target"
    finish_reason: str | None


class Speculator:
    """A target, a drafter and how they work together.

    Args:
        model, tokenizer: the target, loaded, in eval mode; never changed.
        assistant_model, assistant_tokenizer: the drafter. Without a tokenizer of its own it shares the target's. Or lists of them, with names of
            methods that need no model among them (`[small, "prompt_lookup"]`): each step of a request then asks the one that pays best.
        method: a name from `anydraft methods`, or "auto".
        num_assistant_tokens: depth of a chain and node budget of a tree, or "auto".
        rule, control: names, or "auto".
        max_batch_size: most requests in one batch; further ones take the places of those that finish. None: all at once.
        schedule: "sequential", or "dsi" or "pearl", which draft while the target verifies and run requests one after another.
        target_replicas, executor, ray_address: for a parallel schedule: how many, and "threads", "processes" or "ray".
        profile: a `Profile`, or the file that `anydraft profile` wrote: costs for control "auto", instead of measured or estimated ones.
        draft_model, num_speculative_tokens, prompt_lookup_num_tokens, speculative_config: other engines' names, see aliases.py.
        options: what the chosen method, rule or control takes, by name.
    Raises:
        UnknownMethod, UnknownOption, BadOption, BadModel, UnsupportedModel, WrongPair, WrongVocabulary.

    >>> from anydraft import Speculator, zoo
    >>> s = Speculator.from_pretrained(zoo.path("target"), assistant_model=zoo.path("draft-bpe"))
    >>> s.generate("import os", max_new_tokens=8).finish_reason
    'length'
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        assistant_model: Any = None,
        assistant_tokenizer: Any = None,
        method: str = "auto",
        num_assistant_tokens: int | str = "auto",
        *,
        rule: str = "auto",
        control: str = "auto",
        max_batch_size: int | None = None,
        schedule: str = "sequential",
        target_replicas: int = 1,
        executor: str = "threads",
        ray_address: str | None = None,
        profile: Any = None,
        **options: Any,
    ):
        assistant_model, method, num_assistant_tokens, options = resolve(assistant_model, method, num_assistant_tokens, options)
        drafters = several(assistant_model, assistant_tokenizer)
        if len(drafters) == 1 and is_free(drafters[0][0]):  # a method's name is as good as the method
            named, drafters = drafters[0][0], [(None, None)]
            if method not in ("auto", "none", named):
                raise BadOption("assistant_model and method say different things", got=f"{named!r} and {method!r}", expected="one of them")
            method = named if method == "auto" else method
        for role, one in (("model", model), *(("assistant_model", one) for one, _ in drafters)):
            if isinstance(one, (str, Path)) and not (role == "assistant_model" and is_free(one)):
                raise BadModel(f"{role} is a name, not a loaded model", got=str(one), next_step="Use Speculator.from_pretrained")
            if role == "model" and not (isinstance(one, torch.nn.Module) and hasattr(one, "config")):
                raise BadModel("model is not usable", got=type(one).__name__, expected="a loaded causal language model of transformers")
            if getattr(one, "training", False):
                raise BadModel(f"{role} is in training mode, where dropout makes forwards random", next_step=f"Call {role}.eval() first")
        if max_batch_size is not None and max_batch_size < 1:
            raise BadOption("max_batch_size is not usable", got=max_batch_size, expected="an integer >= 1, or None")
        if len(drafters) > 1 and method not in ("auto", "none"):
            raise BadOption(
                f"method {method!r} is one for all, and each of several drafters has its own", got=f"{len(drafters)} drafters and method={method!r}",
                expected="method='auto'", next_step="Leave method out, or give one drafter",
            )  # fmt: skip
        if len(drafters) > 1 and schedule != "sequential":
            raise BadOption(f"schedule {schedule!r} takes one drafter", got=f"{len(drafters)} drafters", next_step="Give one, or schedule='sequential'")
        self.model, self.tokenizer = model, tokenizer
        self.assistant_model, self.assistant_tokenizer = assistant_model, assistant_tokenizer
        self.target = TransformersModel(model)
        self.max_batch_size = max_batch_size
        self.method = method
        self.schedule = schedule_for(self, schedule, target_replicas, executor, ray_address)
        self.num_assistant_tokens, self.options, self.parts_method = num_assistant_tokens, options, method
        if schedule != "sequential" and control == "auto":
            control = "fixed"  # a parallel schedule's blocks have one length
        self._settings = {"rule": rule, "control": control, "num_assistant_tokens": num_assistant_tokens}
        self._options = options
        self.assistants = [Assistant(self.target, tokenizer, one if method != "none" else None, its) for one, its in drafters]
        self._assistant, self.pair, self.pace = self.assistants[0].part, self.assistants[0].pair, self.assistants[0].pace
        if profile is not None:
            known = profile if isinstance(profile, Profile) else Profile.load(profile)
            for assistant in self.assistants:
                assistant.pace.believe(known, among=len(self.assistants))
        self.parts()  # a wrong combination is refused now, not at the first prompt

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        assistant_model: Any = None,
        method: str = "auto",
        num_assistant_tokens: int | str = "auto",
        *,
        tokenizer: Any = None,
        assistant_tokenizer: Any = None,
        dtype: Any = None,
        device_map: Any = None,
        revision: str | None = None,
        quantization_config: Any = None,
        trust_remote_code: bool = False,
        use_safetensors: bool = True,
        **options: Any,
    ) -> Speculator:
        """Loads target and drafter by name or folder, as `AutoModelForCausalLM.from_pretrained` does.

        Args:
            dtype: None is float32 on a CPU and the checkpoint's own on an accelerator.
            use_safetensors: False also reads pickled checkpoints, which can run code.
            options: as for `Speculator`.
        Raises:
            BadModel: nothing that can be loaded is there. Otherwise as `Speculator`.
        """
        from anydraft.loading import load

        assistant_model, method, num_assistant_tokens, options = resolve(assistant_model, method, num_assistant_tokens, options)
        settings = {"dtype": dtype, "device_map": device_map, "quantization_config": quantization_config}
        settings |= {"trust_remote_code": trust_remote_code, "use_safetensors": use_safetensors}
        target, own = load(model, tokenizer, revision=revision, **settings)
        loaded = [
            (one, None) if one is None or is_free(one) else load(one, its, **settings) for one, its in several(assistant_model, assistant_tokenizer)
        ]
        drafter, its = map(list, zip(*loaded)) if isinstance(assistant_model, (list, tuple)) else loaded[0]
        return cls(target, own, drafter, its, method, num_assistant_tokens, **options)

    # -- generating --------------------------------------------------------------------------------------------------

    def generate(self, prompt: Any = None, *, messages: Any = None, **options: Any) -> Any:
        """Continues a prompt, or each of a list.

        Args:
            prompt: a string, token ids, or a list of either.
            messages: instead of a prompt, a chat as [{"role": ..., "content": ...}], or a list of chats; needs a chat template.
            options: see `Options`: max_new_tokens, temperature, top_p, stop_strings, seed, ...
        Returns:
            A `Generation`; a list of them for a list of prompts or for num_return_sequences > 1.
            Ctrl-C returns what there is, with finish_reason "interrupted".
        """
        run = self._start(prompt, messages, options, stream=False)
        try:
            for _ in run.steps():
                pass
        except KeyboardInterrupt:
            run.interrupt()
        done = run.generations()
        return done if run.many else done[0]

    def stream(self, prompt: Any = None, *, messages: Any = None, **options: Any) -> Iterator[Piece]:
        """Yields a `Piece` per request and step, in the order in which steps finish. Same arguments as `generate`."""
        run = self._start(prompt, messages, options, stream=True)
        for step in run.steps():
            yield from run.pieces(step)

    @property
    def custom_generate(self) -> SpeculativeGenerate:
        """For `model.generate(..., custom_generate=speculator.custom_generate)`; see drop_in.py for what it honours."""
        from anydraft.drop_in import SpeculativeGenerate

        return SpeculativeGenerate(lambda model: self, only=self.model)

    def run(self, requests: list[Request]) -> _Run:
        """A run of requests that were made elsewhere; its `steps` do the work."""
        return _Run(self, requests, many=True, stream=False)

    def parts(self, sampled: bool = False) -> Parts:
        """A fresh drafter, rule and control: their state belongs to one call. `sampled`: whether its requests have a temperature."""
        found, reason = self._choices(sampled)
        if hasattr(self.schedule, "report"):
            found = found[:1]  # parallel schedules have one drafter
        self.parts_method = found[0].method
        settings: dict[str, Any] = {**self._settings, "reason": reason}
        control, k = self._settings["control"], self._settings["num_assistant_tokens"]
        if len(found) > 1 and (len(self.assistants) > 1 or chooses(control, k)):
            learned = self.pace.given(("experience", "clock"), "several")
            return assemble_several({c.name: c.offer() for c in found}, learned, self._options, **settings)
        made = [assemble(c.method, c.assistant.given(c.method), self._options, **settings) for c in found]
        if len(made) == 1:
            return made[0]
        given = {"drafters": {c.name: parts.drafter for c, parts in zip(found, made)}, "model": self._assistant, "pace": self.pace}
        return assemble("first_rounds", given, {}, **settings)

    def reset(self) -> None:
        """Forgets what the engines hold of earlier requests."""
        self.target.reset()
        for assistant in self.assistants:
            if assistant.is_model:
                assistant.part.reset()

    def close(self) -> None:
        """Ends the workers of a parallel schedule, if there are any; a later call makes new ones."""
        getattr(self.schedule, "close", lambda: None)()

    def _choices(self, sampled: bool) -> tuple[list[Choice], str]:
        if self.method != "auto":
            return [Choice(self.method, self.assistants[0], self.method)], ""
        found, reason = choices(self.assistants, sampled)
        return found, reason if len(self.assistants) > 1 else self.assistants[0].methods(sampled)[1]

    def requests(self, prompt: Any = None, *, messages: Any = None, **options: Any) -> list[Request]:
        """What `generate` would run with the same arguments, after all of its checks; nothing is run."""
        return self._asked(prompt, messages, Options.parse(options))[0]

    def _asked(self, prompt: Any, messages: Any, parsed: Options) -> tuple[list[Request], bool]:
        """The requests, and whether the caller gets a list."""
        prompts, many = self._prompts(prompt, messages)
        requests = parsed.requests(prompts, self.eos_token_ids, self.target.vocab_size, self.target.max_length)
        requests = self._with_own_chat(requests, messages, parsed.num_return_sequences)
        if self.tokenizer is None and parsed.stop_strings:
            raise BadOption("stop_strings need a tokenizer", next_step="Give the Speculator a tokenizer, or use stop_token_ids")
        return requests, many or parsed.num_return_sequences > 1

    def _start(self, prompt: Any, messages: Any, options: dict[str, Any], stream: bool) -> _Run:
        return _Run(self, *self._asked(prompt, messages, Options.parse(options)), stream)

    def _prompts(self, prompt: Any, messages: Any) -> tuple[list[torch.Tensor], bool]:
        if (prompt is None) == (messages is None):
            raise BadPrompt("exactly one of prompt and messages is needed", got="both" if prompt is not None else "neither")
        if messages is None:
            many = isinstance(prompt, (list, tuple)) and not (prompt and all(isinstance(t, int) for t in prompt))
            many = many or (isinstance(prompt, torch.Tensor) and prompt.ndim == 2)
            return as_ids(prompt, self._encode if self.tokenizer is not None else None), many
        if getattr(self.tokenizer, "chat_template", None) is None:
            step = "Pass a prompt, or set tokenizer.chat_template"
            raise BadPrompt("messages need a chat template, and the target's tokenizer has none", next_step=step)
        many = bool(messages) and not isinstance(messages[0], dict)
        chats = messages if many else [messages]
        texts = [self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        return [torch.tensor(self.tokenizer(t, add_special_tokens=False).input_ids) for t in texts], many

    def _with_own_chat(self, requests: list[Request], messages: Any, copies: int) -> list[Request]:
        """A chat reaches a drafter of another vocabulary through the drafter's own template, if any: translating would lose its roles."""
        foreign = [a for a in self.assistants if a.is_model and not a.pair.same] if messages is not None else []
        its: Any = foreign[0].its_tokenizer if len(foreign) == 1 else None  # a request holds one text for a drafter: it cannot be several drafters'
        if getattr(its, "chat_template", None) is None:
            return requests
        chats = messages if messages and not isinstance(messages[0], dict) else [messages]
        texts = [its.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats for _ in range(copies)]
        prompts = [torch.tensor(its(text, add_special_tokens=False).input_ids) for text in texts]
        return [dataclasses.replace(request, drafter_prompt=ids) for request, ids in zip(requests, prompts)]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text).input_ids)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every id that ends a text: the generation configuration's and the tokenizer's."""
        ends: set[int] = set()
        config = getattr(self.model, "generation_config", None)
        for value in (getattr(config, "eos_token_id", None), getattr(self.tokenizer, "eos_token_id", None)):
            ends |= {int(v) for v in (value if isinstance(value, (list, tuple)) else [value]) if v is not None}
        return frozenset(ends)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


@dataclass(slots=True)
class _Logprobs:
    per_request: dict[int, list[TokenLogprobs]] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """Log-probabilities of what a step emitted, from the logits before any processor."""
        for b, (slot, request) in enumerate(zip(step.before.slot.tolist(), step.before.requests)):
            if request.logprobs is None:
                continue
            rows = ([0] + [node + 1 for node in step.path[b]])[: int(step.emitted[b])]
            start = int(step.before.length[b])
            tokens = step.after.ids[b, start : start + len(rows)]
            laws = step.scores.logits[b, rows].float().log_softmax(-1).cpu()
            best = laws.topk(min(request.logprobs, laws.shape[-1]), -1)
            for row, token in enumerate(tokens.tolist()):
                top = list(zip(best.indices[row].tolist(), best.values[row].tolist()))
                self.per_request.setdefault(slot, []).append(TokenLogprobs(token, float(laws[row, token]), top))


class _Run:
    """One call of `generate` or `stream`."""

    def __init__(self, owner: Speculator, requests: list[Request], many: bool, stream: bool):
        self.owner, self.requests, self.many = owner, requests, many
        self.parts = owner.parts(any(r.temperature > 0 for r in requests))
        owner.reset()
        decode = owner.decode if owner.tokenizer is not None else None
        self.stopping = {s: Stopping(r, decode, incremental=stream or bool(r.stop_strings)) for s, r in enumerate(requests)}
        self.metrics = {s: Metrics(method=self.parts.method, reason=self.parts.reason) for s in range(len(requests))}
        self.logprobs = _Logprobs()
        self._waiting = list(range(len(requests)))
        self._admitted: dict[int, float] = {}

    def steps(self) -> Iterator[Step]:
        p, target = self.parts, self.owner.target
        for step in self.owner.schedule(target, p.drafter, p.rule, p.control, Keyed(), self._refill, self.stopping):
            self.logprobs.add(step)
            now = time.perf_counter()
            drafted = step.draft.live.sum(1).tolist() if step.draft.nodes else [0] * step.before.size
            for b, slot in enumerate(step.before.slot.tolist()):
                self.metrics[slot].add(step, b, drafted[b], now - self._admitted[slot])
            yield step

    def _refill(self, context: Context | None) -> Context | None:
        held = context.size if context is not None else 0
        most = self.owner.max_batch_size or len(self.requests)
        new, self._waiting = self._waiting[: most - held], self._waiting[most - held :]
        if new:
            fresh = Context.start([self.requests[s] for s in new], new, self.owner.target.max_length)
            context = fresh if context is None or not context.size else context.join(fresh)
            self._admitted |= dict.fromkeys(new, time.perf_counter())
        return context if context is not None and context.size else None

    def pieces(self, step: Step) -> Iterator[Piece]:
        sources = step.draft.source.tolist() if step.draft.source is not None else None
        names = [name or self.parts.method for name in step.draft.proposer]
        for b, slot in enumerate(step.before.slot.tolist()):
            emitted, start = int(step.emitted[b]), int(step.before.length[b])
            tokens = step.after.ids[b, start : start + emitted].tolist()
            makers = [names[sources[b][n]] if sources else names[0] for n in step.path[b]] + ["target"]
            yield Piece(slot, self.stopping[slot].fresh_text(), tokens, makers[:emitted], step.finish[b])

    def interrupt(self) -> None:
        self.owner.close()
        for stopping in self.stopping.values():
            if stopping.finish is None:
                stopping.finish = "interrupted"

    def generations(self) -> list[Generation]:
        spent = getattr(self.owner.schedule, "report", dict)()
        for metrics in self.metrics.values() if spent else ():
            metrics.schedule = spent
        tell, explain = getattr(self.parts.control, "report", None), getattr(self.parts.drafter, "reason", None)
        chosen = getattr(self.parts.control, "choices", None)
        for slot, metrics in self.metrics.items():
            if tell is not None:
                metrics.notes = tell(self.requests[slot])
            metrics.drafters = chosen(self.requests[slot]) if chosen is not None else {}
            if metrics.drafters:
                metrics.method = max(metrics.drafters, key=lambda name: metrics.drafters[name]["steps"])
                counts = ", ".join(f"{name} {held['steps']} ({held['emitted']} tokens)" for name, held in metrics.drafters.items())
                metrics.reason = f"{metrics.reason}; chosen step by step, steps drafted: {counts}"
            if explain is not None:
                metrics.method, measured = explain(slot)
                metrics.reason = f"{metrics.reason}; {measured}"
        return [
            Generation(
                text=end.text,
                token_ids=end.ids,
                prompt_token_ids=request.prompt.tolist(),
                finish_reason=end.finish,
                metrics=self.metrics[slot],
                stop_reason=end.stop_reason,
                logprobs=self.logprobs.per_request.get(slot, []) if request.logprobs is not None else None,
            )
            for slot, (request, end) in enumerate(zip(self.requests, self.stopping.values()))
        ]
