"""Toy pairs of vocabularies that overlap from 0 to 100 per cent and are not injective, and what the tests of methods for them share."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anydraft.control.fixed import Fixed
from anydraft.core.records import Context, Request, Step
from anydraft.core.stopping import Stopping
from anydraft.engine.table import TableModel
from anydraft.schedules.sequential import sequential
from anydraft.testing.exact import Enumerating, Script, exact_law, plain_law, total_variation
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection

EOS = None
PAIRS: dict[str, tuple[list[bytes | None], list[bytes | None]]] = {
    "none in common": ([b"aa", b"ab", b"ba", b"bb"], [b"a", b"b"]),
    "a quarter": ([b"a", b"ab", b"ba", b"aab"], [b"b", b"a"]),
    "half": ([b"a", b"b", b"ba", b"aa"], [b"ab", b"b", b"a"]),
    "all, in another order": ([b"a", b"b", b"ab"], [b"ab", b"a", b"b"]),
    "several ids for one text": ([b"a", b"b", b"a", b"ab"], [b"b", b"a", b"b"]),
    "with ends": ([b"a", b"b", EOS], [EOS, b"b", b"ab", b"a"]),
    "padded": ([b"a", b"b", b"ab", None], [b"b", b"a", None]),
}
COMMON = [name for name in PAIRS if name != "none in common"]
EXACT = 1e-9


def aligner(name: str) -> Aligner:
    tables = PAIRS[name]
    ends = [{table.index(EOS): "eos"} if name == "with ends" else {} for table in tables]
    target, drafter = (ByteVocabulary.from_table(table, end) for table, end in zip(tables, ends))
    return Aligner(Intersection.between(target, drafter, empty=True))


def target_of(name: str, seed: int = 1, spread: float = 1.0) -> TableModel:
    return TableModel(len(PAIRS[name][0]), seed=seed, spread=spread)


def drafter_of(name: str, seed: int = 2, spread: float = 1.0) -> TableModel:
    return TableModel(len(PAIRS[name][1]), seed=seed, spread=spread)


def ask(name: str, tokens: int = 3, temperature: float = 1.0, **options) -> Request:
    eos = frozenset([PAIRS[name][0].index(EOS)]) if name == "with ends" else frozenset()
    return Request(prompt=torch.tensor([0, 1]), max_new_tokens=tokens, temperature=temperature, eos=eos, **options)


def given(name: str, **seeds) -> dict:
    """What the house would give a drafter's constructor."""
    return {"model": drafter_of(name, **seeds), "aligner": aligner(name), "vocab_size": len(PAIRS[name][0])}


def distance(name: str, drafter: Callable, rule: Callable, k: int = 2, **options) -> float:
    """Total variation between speculation's law and plain decoding's."""
    request = ask(name, **options)
    law = exact_law(lambda: (target_of(name), drafter(), rule(), Fixed(k)), request)
    assert abs(sum(law.values()) - 1) < EXACT
    return total_variation(law, plain_law(lambda: target_of(name), request))


def acceptance(name: str, drafter: Callable, rule: Callable, k: int = 1, **options) -> float:
    """Exact probability that the first drafted token of a request is accepted, through the production loop."""
    request, accepted, todo = ask(name, tokens=k + 1, **options), 0.0, [[]]
    while todo:
        scripts, todo = [Script(choices=list(c)) for c in todo], []
        first = _first_step((target_of(name), drafter(), rule(), Fixed(k)), request, scripts)
        for script, path in zip(scripts, first.path):
            accepted += script.weight * bool(path)
            todo += script.untried
    return accepted


def _first_step(parts: tuple, request: Request, scripts: list[Script]) -> Step:
    requests = [Request(**{n: getattr(request, n) for n in Request.__dataclass_fields__}) for _ in scripts]
    start = Context.start(requests)
    ends = {slot: Stopping(r) for slot, r in enumerate(requests)}
    return next(sequential(*parts, Enumerating(scripts), lambda c: start if c is None else None, ends))


def laws(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's and the drafter's law f64 after the prompt of `ask`, the latter after the same text."""
    start = Context.start([ask(name)])
    both = aligner(name)
    own = both.start([0, 1]).drafter_ids
    return target_of(name).logits(start.row(0).tolist()).softmax(-1), drafter_of(name).logits(own).softmax(-1)
