"""How a target and its drafters fit together: what was given as a drafter, whose vocabulary is whose, and which method that calls for.

Source of the choice: Timor et al. 2025, arXiv:2502.05202, and its authors' advice: the same vocabulary is used as it is; of the others, string matching
leads where the target is greedy and the intersection where it samples, and the first steps of each request decide between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from anydraft.build import Offer, parameters
from anydraft.core import discover
from anydraft.core.errors import BadModel, BadOption, WrongVocabulary
from anydraft.engine.transformers import TransformersModel
from anydraft.planning.pace import Pace
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.bytes import ByteVocabulary, same_vocabulary
from anydraft.vocabulary.intersection import Intersection

MOST = 0.9  # share of the target's ids above which there is next to nothing to redistribute


class Pair:
    """The two vocabularies of a Speculator, read when somebody asks and kept.

    Args:
        target_tokenizer, drafter_tokenizer: loaded tokenizers; a drafter without one shares the target's ids.
        target_width, drafter_width: V and U, the models' logits widths.
    """

    def __init__(self, target_tokenizer: Any, target_width: int, drafter_tokenizer: Any, drafter_width: int):
        self._target, self._drafter = (target_tokenizer, target_width), (drafter_tokenizer, drafter_width)

    @cached_property
    def target(self) -> ByteVocabulary:
        """The target's vocabulary. Raises as `aligner`."""
        return self._vocabulary("target", *self._target)

    @cached_property
    def same(self) -> bool:
        """Whether ids mean the same on both sides: by content, never by size."""
        if self._drafter[0] is None or self._drafter[0] is self._target[0]:
            return True
        return same_vocabulary(self.target, self._vocabulary("drafter", *self._drafter))

    @cached_property
    def aligner(self) -> Aligner:
        """What token-level and string-level methods relate the two by.

        Raises:
            BadModel: a tokenizer is missing. WrongVocabulary: its tokens have no bytes that can be known, or it is another model's.
        """
        target = self.target
        shared = self._drafter[0] is None
        if shared and self._drafter[1] != self._target[1]:
            raise _missing("drafter", f"a drafter of {self._drafter[1]} ids for a target of {self._target[1]}")
        drafter = self._vocabulary("drafter", self._target[0] if shared else self._drafter[0], self._drafter[1])
        return Aligner(Intersection.between(target, drafter, empty=True))

    @cached_property
    def text_only(self) -> Aligner:
        """For a drafter that yields text: the target's vocabulary alone."""
        return Aligner(Intersection.between(self.target, self.target))

    def require_same(self, method: str) -> None:
        """Raises WrongVocabulary if the drafter's ids are not the target's."""
        if not self.same:
            raise WrongVocabulary(
                f"{method} needs a drafter with the target's vocabulary",
                got=f"tokenizers that differ in content ({self._target[1]} and {self._drafter[1]} ids)",
                expected="the same tokens under the same ids",
                next_step="Use method='tli' or method='slem' (or 'auto'), which take any vocabulary",
            )

    def choose(self, sampled: bool) -> tuple[list[str], str]:
        """The methods to try, best guess first, and why."""
        if self.same:
            return ["draft_model"], "the drafter's vocabulary is the target's, by content"
        both = self.aligner.intersection
        if not both.size:
            return ["slem"], "the drafter's vocabulary has no token in common with the target's"
        # moving mass to tokens that are not shared can only help a sampled request, and only where many are not
        order = ["tli", "slem", *(["rdk"] if both.size < MOST * both.target.width else [])] if sampled else ["slem", "tli"]
        why = "sampling favours the intersection" if sampled else "greedy decoding favours matching strings"
        return order, f"the drafter has another vocabulary ({both.size} common tokens of {both.target.width}); {why}"

    @staticmethod
    def _vocabulary(role: str, tokenizer: Any, width: int) -> ByteVocabulary:
        if tokenizer is None:
            raise _missing(role)
        made = ByteVocabulary.from_tokenizer(tokenizer, width)
        named = len(made.roles) + sum(data is not None for data in made.table)
        if 2 * named < width or len(made.beyond) > width:
            raise WrongVocabulary(
                f"the {role}'s tokenizer does not go with its model",
                got=f"a model of {width} ids, of which the tokenizer names {named}; it has {len(made.beyond)} ids beyond them",
                expected="the tokenizer that the model was trained with",
                next_step="Give the right one; method='prompt_lookup' needs no tokenizer",
            )
        return made


def _missing(role: str, got: str | None = None) -> BadModel:
    argument = "tokenizer" if role == "target" else "assistant_tokenizer"
    return BadModel(
        f"the {role}'s tokenizer is missing",
        got=got,
        expected=f"a tokenizer, to relate two vocabularies by their bytes ({argument}=...)",
        next_step="Give it; a drafter with the target's own ids needs none under method='draft_model', and method='prompt_lookup' needs no drafter",
    )


class Assistant:
    """One drafter of a Speculator: what was given, its engine, and how it relates to the target.

    Args:
        target: the engine of the target, whose model and tokenizer are `model` and `tokenizer`.
        given: a model, something that continues text, the name of a method that needs neither, or None.
        its_tokenizer: of a model; None: the target's ids.
    Raises:
        BadModel: nothing that could draft.
    """

    def __init__(self, target: TransformersModel, tokenizer: Any, given: Any, its_tokenizer: Any = None):
        self.target, self.tokenizer, self.its_tokenizer = target, tokenizer, its_tokenizer
        self.method = given if isinstance(given, str) else None  # a method that needs no model
        self.source = None if self.method else given
        self.part = _drafting(self.source)
        self.is_model = isinstance(self.part, TransformersModel)
        self.pair = Pair(tokenizer, target.vocab_size, its_tokenizer, getattr(self.part, "vocab_size", target.vocab_size))
        self.pace = Pace(target.model, self.source if self.is_model else None, text_only=self.part is not None and not self.is_model)

    @property
    def name(self) -> str:
        """What tells it from others of the same method: the folder or hub name that a model was loaded from, without the way to it."""
        where = getattr(self.source, "name_or_path", "") or getattr(self.source, "__name__", "")
        return Path(str(where)).name

    def methods(self, sampled: bool) -> tuple[list[str], str]:
        """The methods to try, best guess first, and why."""
        if self.method is not None:
            return [self.method], "it needs no model"
        if self.part is None:
            return ["prompt_lookup"], "no drafter was given"
        if not self.is_model:
            return ["slem"], "the drafter yields text only"
        return self.pair.choose(sampled)

    def given(self, method: str) -> dict[str, Any]:
        """What the house offers a drafter's constructor; vocabularies are read only for a method that asks for them."""
        given: dict[str, Any] = {"vocab_size": self.target.vocab_size, "tokenizer": self.tokenizer, "pace": self.pace}
        if self.part is None:
            return given
        wanted = parameters(discover.load("drafters", method))
        wants_aligner = "aligner" in wanted
        if not self.is_model and "model" in wanted and "TextModel" not in str(wanted["model"].annotation):
            raise BadOption(f"{method} needs a model's laws, and this drafter yields text only", next_step="Use method='slem'")
        if not wants_aligner and self.is_model:
            self.pair.require_same(method)
        given |= {"model": self.part, "assistant_tokenizer": self.its_tokenizer or self.tokenizer}
        return given | ({"aligner": self.pair.aligner if self.is_model else self.pair.text_only} if wants_aligner else {})


@dataclass(frozen=True, slots=True)
class Choice:
    """One drafter with one method, under the name by which metrics and streams call it."""

    name: str
    assistant: Assistant
    method: str

    def offer(self) -> Offer:
        """What `assemble_several` makes the drafter from."""
        return Offer(self.method, self.assistant.given(self.method))


def choices(assistants: Sequence[Assistant], sampled: bool) -> tuple[list[Choice], str]:
    """Every drafter with every method that may suit it, and why; names are methods where these tell the drafters apart."""
    found, reasons = [], []
    for number, assistant in enumerate(assistants, 1):
        methods, why = assistant.methods(sampled)
        found += [(number, assistant, method) for method in methods]
        reasons.append(f"{assistant.name or assistant.method or f'drafter {number}'}: {why}")
    methods = [method for _, _, method in found]
    names = [method if methods.count(method) == 1 else f"{method}:{assistant.name or number}" for number, assistant, method in found]
    names = [name if names.count(name) == 1 else f"{name}:{number}" for name, (number, _, _) in zip(names, found)]
    return [Choice(name, assistant, method) for name, (_, assistant, method) in zip(names, found)], "; ".join(reasons)


def several(assistant_model: Any, assistant_tokenizer: Any) -> list[tuple[Any, Any]]:
    """(drafter, its tokenizer) of each drafter that was given, one for a drafter that is no list.

    Raises:
        BadOption: no drafter in a list, the same one twice, a tokenizer of which it is unclear whose it is.
    """
    if not isinstance(assistant_model, (list, tuple)):
        if isinstance(assistant_tokenizer, (list, tuple)):
            raise BadOption("assistant_tokenizer is a list, and assistant_model is not", next_step="Give the one drafter its tokenizer itself")
        return [(assistant_model, assistant_tokenizer)]
    if not assistant_model:
        raise BadOption("assistant_model is an empty list", expected="one drafter or more", next_step="Leave it out for a method without a drafter")
    for place, one in enumerate(assistant_model):
        if one is None:
            raise BadOption("a drafter of the list is None", got=f"place {place}", next_step="Leave it out")
        if any(one is held or (isinstance(one, (str, Path)) and isinstance(held, (str, Path)) and str(one) == str(held)) for held in assistant_model[:place]):
            shown = repr(str(one)) if isinstance(one, (str, Path)) else type(one).__name__
            raise BadOption("the same drafter is given twice", got=shown, next_step="Leave one of them out: each is tried with every method that suits it")
    if isinstance(assistant_tokenizer, (list, tuple)):
        if len(assistant_tokenizer) != len(assistant_model):
            got = f"{len(assistant_tokenizer)} tokenizers for {len(assistant_model)} drafters"
            raise BadOption("assistant_tokenizer does not fit the drafters", got=got, expected="one each, None where none is needed")
        return list(zip(assistant_model, assistant_tokenizer))
    models = [not is_free(one) for one in assistant_model]
    if assistant_tokenizer is not None and sum(models) > 1:
        got = f"one tokenizer for {sum(models)} drafters"
        raise BadOption("it is not clear whose tokenizer this is", got=got, expected="assistant_tokenizer=[...], one each, None where none is needed")
    return [(one, assistant_tokenizer if needs else None) for one, needs in zip(assistant_model, models)]


def is_free(one: Any) -> bool:
    """Whether this is the name of a method that drafts without a model."""
    return isinstance(one, str) and one in free_methods()


def free_methods() -> list[str]:
    """Methods that can be a drafter by their name alone."""
    return [name for name in discover.names("drafters") if name != "none" and not parameters(discover.load("drafters", name)).keys() & {"model", "drafters"}]


def _drafting(assistant: Any) -> Any:
    """The drafter as a part: a model with a cache, or something that continues text."""
    if assistant is None:
        return None
    if isinstance(assistant, torch.nn.Module):
        return TransformersModel(assistant)
    if hasattr(assistant, "continue_text"):
        return assistant
    if callable(assistant):
        return _Continuing(assistant)
    expected = "a causal language model, or a callable (text, max_tokens) -> text"
    raise BadModel("assistant_model is not usable", got=type(assistant).__name__, expected=expected)


@dataclass(frozen=True, slots=True)
class _Continuing:
    """A plain function as a `TextModel`."""

    function: Any

    def continue_text(self, text: str, max_tokens: int) -> str:
        return self.function(text, max_tokens)
