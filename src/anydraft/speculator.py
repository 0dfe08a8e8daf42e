"""The facade that users hold: load two models, generate, stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anydraft.aliases import resolve
from anydraft.build import Parts, assemble, assemble_several, chooses
from anydraft.core.errors import BadModel, BadOption, BadPrompt
from anydraft.core.records import Request
from anydraft.deploy import schedule_for
from anydraft.engine.transformers import TransformersModel
from anydraft.generation import Generation, Piece, Run, TokenLogprobs
from anydraft.options import Options, as_ids
from anydraft.pairing import Assistant, Choice, choices, is_free, several
from anydraft.planning.profile import Profile

if TYPE_CHECKING:
    from anydraft.drop_in import SpeculativeGenerate

__all__ = ["Generation", "Piece", "Speculator", "TokenLogprobs"]


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

    def run(self, requests: list[Request]) -> Run:
        """A run of requests that were made elsewhere; its `steps` do the work."""
        return Run(self, requests, many=True, stream=False)

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

    def _start(self, prompt: Any, messages: Any, options: dict[str, Any], stream: bool) -> Run:
        return Run(self, *self._asked(prompt, messages, Options.parse(options)), stream)

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
