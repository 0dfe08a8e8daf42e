"""Is this pair, with this method and these options, lossless here? Four checks and one line.

    greedy       the very tokens of plain decoding at temperature 0; a difference passes only as a tie of the target's own arithmetic
    sampling     speculative against plain, and plain against plain, told apart by `statistics.compare` or not
    control      a planted mistake, which both must catch: a check that cannot fail proves nothing
    unchanged    the models are, bit for bit, what they were

Everything runs through whatever `generate` it is given, so what is tested is the path that users run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from anydraft.core.processors import Recipe, at_least_float32
from anydraft.core.records import Request
from anydraft.testing import statistics
from anydraft.testing.reference import Reference
from anydraft.testing.statistics import Comparison, Power, Window, compare, room, sample_size
from anydraft.testing.ties import audit
from anydraft.testing.unchanged import fingerprint


class Generates(Protocol):
    """What is tested: a `Speculator`, or anything with its `generate`."""

    def generate(self, prompt: Any, **options: Any) -> Any:
        """A list of results with `token_ids` and `metrics` for a list of prompts."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tested."""

    greedy_prompts: int = 8
    greedy_tokens: int = 48
    prefixes: int = 4
    prefix_tokens: int = 8
    window: int = 4  # tokens looked at after each prefix; more for drafters that start late
    effect: float = 0.15  # total variation of the first token's law that must be seen ...
    power: float = 0.95  # ... with this probability
    false_alarm: float = 1e-3
    samples: int | None = None  # texts per prefix; None: computed from the three above
    most_samples: int = 1024
    batch: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """One check: passed or not, and what it saw."""

    name: str
    passed: bool
    said: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one run."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One line: the failures if there are any, else what was shown."""
        told = [c for c in self.checks if c.passed == self.passed]
        return f"{'PASS' if self.passed else 'FAIL'} {self.subject}: " + "; ".join(c.said for c in told)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "subject": self.subject,
            "checks": [dataclasses.asdict(c) for c in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tested, and what it is tested with.

    Attributes:
        speculative, plain: the two decodings that must agree.
        control: the speculative one with a mistake planted, for greedy decoding and for sampling.
        model: the target as transformers has it, for the reference tokens, the tie audit and the first laws.
        request: the options under test; its prompt is not used. options: the same as keywords of `generate`.
        prompts: ids. models: by role, with their fingerprints from before anything was built around them.
        keeps_path: the rule promises the tokens of plain decoding with the same seed.
        greedily: what is tested at temperature 0, where that is another decoding than `speculative`.
        drafts: False for plain decoding itself, where nothing is drafted and `plain` should be somebody else's.
    """

    name: str
    speculative: Generates
    plain: Generates
    control: Mapping[str, Generates]
    model: Any
    request: Request
    options: Mapping[str, Any]
    prompts: Sequence[list[int]]
    models: Mapping[str, tuple[Any, str]]
    keeps_path: bool = False
    greedily: Generates | None = None
    drafts: bool = True


def verify(subject: Subject, plan: Plan, progress: Callable[[str], None] = lambda said: None) -> Report:
    """Runs the checks that the options call for: sampling only above temperature 0."""
    progress("greedy identity")
    checks = [*greedy(subject, plan)]
    if subject.request.temperature > 0:
        checks += sampling(subject, plan, progress)
    progress("fingerprints")
    checks.append(unchanged(subject))
    return Report(subject.name, tuple(checks))


# -- greedy ----------------------------------------------------------------------------------------------------------


def greedy(subject: Subject, plan: Plan) -> list[Check]:
    """All prompts in one batch, against transformers' own `generate` one by one; then the same with the planted mistake."""
    prompts = list(subject.prompts[: plan.greedy_prompts])
    options = {**subject.options, "temperature": 0.0, "max_new_tokens": plan.greedy_tokens}
    reference = Reference(subject.model, subject.request.eos)
    penalty = subject.request.repetition_penalty
    expected = [one.token_ids for one in reference.generate(prompts, max_new_tokens=plan.greedy_tokens, repetition_penalty=penalty)]
    own = subject.greedily or subject.speculative
    made = {"speculative": own.generate(prompts, **options), "plain": subject.plain.generate(prompts, **options)}
    request = dataclasses.replace(subject.request, temperature=0.0)
    found = {name: audit(subject.model, prompts, expected, [g.token_ids for g in gs], request) for name, gs in made.items()}
    differing = found["speculative"]
    faults = [d for d in differing if not d.explained] + [d for d in found["plain"] if not d.explained]
    drafted = sum(g.metrics.num_draft_tokens for g in made["speculative"])
    accepted = sum(g.metrics.num_accepted_draft_tokens for g in made["speculative"])
    said = f"{len(prompts) - len(differing)}/{len(prompts)} greedy outputs identical"
    if differing and not faults:
        said += f", {len(differing)} ties explained by noise"
    if faults:
        worst = max(faults, key=lambda d: d.gap)
        said += (
            f", {len(faults)} unexplained (at token {worst.place} of prompt {worst.prompt}: gap {worst.gap:.3g}, noise {worst.noise:.1g})"
        )
    details = {
        "prompts": len(prompts),
        "drafted": drafted,
        "accepted": accepted,
        "tokens": sum(map(len, expected)),
        "divergences": [dataclasses.asdict(d) for d in differing],
    }
    untested = subject.drafts and drafted == 0
    if untested:
        said += ", but nothing was drafted, so nothing was tested"
    checks = [Check("greedy", not faults and not untested, said, details)]
    if "greedy" in subject.control:
        wrong = subject.control["greedy"].generate(prompts, **options)
        caught = sum(g.token_ids != e for g, e in zip(wrong, expected))
        checks.append(Check("greedy control", caught > 0, f"greedy control {'caught' if caught else 'NOT caught'}", {"differing": caught}))
    return checks


# -- sampling --------------------------------------------------------------------------------------------------------


def sampling(subject: Subject, plan: Plan, progress: Callable[[str], None] = lambda said: None) -> list[Check]:
    """Four samples: plain, plain with other seeds, speculative, and speculative with a mistake."""
    prefixes, laws = chosen_prefixes(subject, plan)
    power = sized(laws, plan)
    n, plan = power.samples, dataclasses.replace(plan, window=sufficient_window(subject, prefixes, plan))
    progress(f"sampling {n} texts after each of {len(prefixes)} prefixes: plain")
    plain, _ = _drawn(subject.plain, prefixes, n, plan, subject.options, 0)
    progress("sampling: plain, other seeds")
    other, _ = _drawn(subject.plain, prefixes, n, plan, subject.options, 1)
    progress("sampling: speculative")
    own, counts = _drawn(subject.speculative, prefixes, n, plan, subject.options, 1)
    null = compare(plain, other, false_alarm=plan.false_alarm, seed=plan.seed)
    found = compare(plain, own, false_alarm=plan.false_alarm, seed=plan.seed)
    alarm = found.differs(plan.false_alarm)
    tested = counts["drafted"] > 0 or not subject.drafts
    shown = f"p={found.p_value:.2g} speculative against plain, {null.p_value:.2g} plain against plain"
    can = f"sees a shift of {plan.effect:g} with power {power.power:.2f} at a false-alarm rate of {plan.false_alarm:g}"
    said = f"sampled law {'DIFFERS' if alarm else 'agrees'} ({shown}; {can})"
    if not tested:
        said = "nothing was drafted while sampling, so nothing was tested"
    details = {
        **counts,
        "window": plan.window,
        "power": dataclasses.asdict(power),
        "texts": n * len(prefixes),
        "speculative": _plain_types(found),
        "null": _plain_types(null),
    }
    checks = [Check("sampling", tested and not alarm and not null.differs(plan.false_alarm), said, details)]
    if null.differs(plan.false_alarm):
        checks.append(
            Check("null", False, f"plain decoding differs from itself under other seeds (p={null.p_value:.2g}): nothing follows")
        )
    if subject.keeps_path:
        checks.append(_path(own, other))
    if "sampling" in subject.control:
        progress("sampling: control")
        wrong, _ = _drawn(subject.control["sampling"], prefixes, n, plan, subject.options, 2)
        control = compare(plain, wrong, false_alarm=plan.false_alarm, seed=plan.seed)
        caught = control.differs(plan.false_alarm)
        outcome = "caught" if caught else "NOT caught, so this test is too weak here: raise --samples, or the drafter is the target's double"
        told = f"sampling control {outcome} (p={control.p_value:.2g})"
        checks.append(Check("sampling control", caught, told, _plain_types(control)))
    return checks


def chosen_prefixes(subject: Subject, plan: Plan) -> tuple[list[list[int]], list[np.ndarray]]:
    """(prefixes, exact first laws): those whose next token is least certain, every second one of a text that repeats itself.

    Where the next token is certain no test can see anything; text that repeats itself is what copying drafters draft from. The
    choice looks at the target alone.
    """
    length = plan.prefix_tokens
    whole = [p[:length] for p in subject.prompts if len(p) >= length] or [list(p) for p in subject.prompts]
    groups = [whole, [[*p[: length - 3], *p[: min(3, length - 3)]] for p in whole if len(p) > 6]]
    kept: list[tuple[list[int], np.ndarray]] = []
    for turn, group in enumerate(groups):
        ranked = sorted(((p, first_law(subject.model, p, subject.request)) for p in group[:48]), key=lambda pair: -room(pair[1]))
        kept += ranked[: plan.prefixes // 2 + (plan.prefixes % 2 if turn == 0 else 0)]
    return [p for p, _ in kept], [law for _, law in kept]


def sufficient_window(subject: Subject, prefixes: Sequence[list[int]], plan: Plan) -> int:
    """Tokens to look at: the plan's window, doubled until a text of this length drafts something; drafters that learn start late."""
    window = plan.window
    while subject.drafts and window < 32:
        trial = dataclasses.replace(plan, window=window)
        if _drawn(subject.speculative, prefixes, 8, trial, subject.options, 3)[1]["drafted"] >= 8 * len(prefixes):
            break
        window *= 2
    return window


@torch.inference_mode()
def first_law(model: Any, prompt: list[int], request: Request) -> np.ndarray:
    """f64[V]: the law of the first token after a prompt, by one plain forward and transformers' own processors."""
    ids = torch.tensor([prompt], device=model.device)
    logits = at_least_float32(model(input_ids=ids).logits[:, -1])
    law = Recipe.of(dataclasses.replace(request, prompt=ids[0].cpu())).probs(logits, ids)[0].double().cpu().numpy()
    return law / law.sum()


def sized(laws: Sequence[np.ndarray], plan: Plan) -> Power:
    """The sample size for the wanted power, or the power of the wanted sample size."""
    if plan.samples is None:
        return sample_size(laws, plan.effect, plan.false_alarm, plan.power, plan.most_samples)
    return Power(plan.samples, statistics.power(laws, plan.samples, plan.effect, plan.false_alarm), plan.effect, plan.false_alarm)


def _drawn(
    who: Generates, prefixes: Sequence[list[int]], n: int, plan: Plan, options: Mapping[str, Any], stream: int
) -> tuple[list[list[Window]], dict[str, int]]:
    """(windows per prefix, what was drafted): all prefixes mixed in big ragged batches, every text with a seed of its own."""
    jobs = [(p, r) for r in range(n) for p in range(len(prefixes))]
    windows: list[list[Window]] = [[] for _ in prefixes]
    counts = {"drafted": 0, "accepted": 0, "refusing_steps": 0}
    for start in range(0, len(jobs), plan.batch):
        part = jobs[start : start + plan.batch]
        seeds = [((plan.seed * 8 + stream) << 40) + (p << 20) + r for p, r in part]
        made = who.generate([prefixes[p] for p, _ in part], seed=seeds, max_new_tokens=plan.window, **options)
        for (p, _), one in zip(part, made):
            windows[p].append(tuple(one.token_ids[: plan.window]))
            counts["drafted"] += one.metrics.num_draft_tokens
            counts["accepted"] += one.metrics.num_accepted_draft_tokens
            counts["refusing_steps"] += sum(1 for d, a in zip(one.metrics.per_step_drafted, one.metrics.per_step_accepted) if a < d)
    return windows, counts


def _path(own: list[list[Window]], plain: list[list[Window]]) -> Check:
    """The same seeds must give the same texts; one in a hundred may fall on a rounding edge of a cumulative sum."""
    pairs = [(a, b) for x, y in zip(own, plain) for a, b in zip(x, y)]
    same = sum(a == b for a, b in pairs) / len(pairs)
    return Check("path", same >= 0.99, f"{same:.2%} of texts are those of plain decoding with the same seed", {"same": same})


def _plain_types(found: Comparison) -> dict[str, Any]:
    return {
        "p_value": found.p_value,
        "p_values": found.p_values,
        "chi_square": found.distances,
        "cells": found.cells,
        "sizes": list(found.sizes),
    }


def unchanged(subject: Subject) -> Check:
    """Fingerprints now against those from before."""
    moved = [role for role, (model, before) in subject.models.items() if fingerprint(model) != before]
    said = f"{', '.join(moved)} CHANGED" if moved else "models unchanged"
    return Check("unchanged", not moved, said, {"models": list(subject.models)})
