"""How a target and a drafter fit together: whose vocabulary is whose, and which method that calls for.

Source of the choice: Timor et al. 2025, arXiv:2502.05202, and its authors' advice: the same vocabulary is used as it is; of the others, string matching
leads where the target is greedy and the intersection where it samples, and the first steps of each request decide between them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from anydraft.core.errors import BadModel, WrongVocabulary
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
