"""Which drafter, which method, which lookahead: measured on the user's models and prompts, before anything is served.

A candidate's acceptance comes from a few generations with a long lookahead, its costs from forwards of both models; the speed-up of every
lookahead is modelled from the two, with an interval over the drafts seen. The plan names the models by content and is refused for others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from anydraft.core.costs import Costs
from anydraft.core.errors import BadModel, BadOption, WrongPair
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Size, Step
from anydraft.core.stopping import Stopping
from anydraft.engine.fingerprint import fingerprint
from anydraft.planning.predict import Prediction, curve_of, from_runs
from anydraft.planning.profile import FORMAT, Rote, read_json, whole_steps
from anydraft.schedules.sequential import sequential

LOOKAHEADS = tuple(range(17))
WORTH = 1.03  # below it, plain decoding is as good and simpler


@dataclass(frozen=True, slots=True)
class Option:
    """One candidate at its best lookahead."""

    method: str
    candidate: str  # the drafter as the user named it, or the method itself
    lookahead: int
    speedup: float  # modelled, over plain decoding
    low: float
    high: float
    acceptance: list[float]  # measured chance that the j-th draft token stands
    costs: dict[str, Any]  # measured
    memory_bytes: int  # of the drafter's weights
    reason: str
    drafter: str | None = None  # fingerprint of its model
    control: str = "fixed"  # what the speed-up is modelled for


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranked options, best first, plain decoding among them."""

    model: str
    target: str  # fingerprint of its model
    objective: str
    batch: int
    temperature: float
    options: list[Option]
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> Option:
        """The first."""
        return self.options[0]

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json() + "\n", encoding="utf-8")

    def to_json(self) -> str:
        """The plan as `load` reads it."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Reads what `save` wrote.

        Raises:
            BadModel: no such file, or not a plan.
        """
        held = read_json(path, "plan")
        held.pop("format")
        try:
            options = [Option(**option) for option in held.pop("options")]
            made = cls(options=options, **held)
            assert options
        except (TypeError, KeyError, AssertionError) as cause:
            raise BadModel(f"{str(path)!r} is no plan", got=str(cause), next_step="Write one with `anydraft plan`") from cause
        return made

    def check(self, target: Any, drafter: Any = None) -> None:
        """Raises WrongPair if the models are not those that were planned for."""
        for role, model, planned in (("target", target, self.target), ("drafter", drafter, self.best.drafter)):
            if model is not None and planned is not None and (found := fingerprint(model)) != planned:
                raise WrongPair(f"the plan was made for another {role}", got=found, expected=planned, next_step="Plan again with these models")

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `Speculator` that follow the plan; a drafter by the name under which it was planned for."""
        best = self.best
        if best.method == "none":
            return {"method": "none"}
        drafter = {"assistant_model": best.candidate} if best.drafter is not None else {}
        return {"method": best.method, "num_assistant_tokens": best.lookahead, "control": best.control, **drafter}

    def vllm(self) -> dict[str, Any] | None:
        """The value of vLLM's `--speculative-config`; None where vLLM has no such method."""
        best = self.best
        if best.method == "draft_model":
            return {"method": "draft_model", "model": best.candidate, "num_speculative_tokens": best.lookahead}
        if best.method == "prompt_lookup":
            return {"method": "ngram", "num_speculative_tokens": best.lookahead, "prompt_lookup_max": 4, "prompt_lookup_min": 1}
        return None

    def llama_cpp(self) -> list[str] | None:
        """Flags of llama.cpp's server, whose models are GGUF files; None where it has no such method."""
        best = self.best
        if best.method == "draft_model":
            return ["--model-draft", f"{best.candidate}.gguf", "--draft-max", str(best.lookahead), "--draft-min", "1"]
        return None


class _Long:
    """A long constant lookahead that notes what stood."""

    def __init__(self, k: int):
        self.k = k
        self.runs: list[tuple[int, int]] = []

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.full((context.size,), self.k, dtype=torch.int64)
        return Size(depth=k, nodes=k)

    def keep(self, step: Step) -> None:
        """A step without a proposal counts: it is part of what the method brings."""
        for b, path in enumerate(step.path):
            room = int(step.before.limit[b] - step.before.length[b]) - 1
            if room >= self.k:  # a draft cut by the end of the request says nothing about length
                self.runs.append((int(step.draft.live[b].sum()) if step.draft.nodes else 0, len(path)))


def observe(speculator: Any, prompts: Sequence[str], *, k: int, tokens: int, temperature: float) -> list[tuple[int, int]]:
    """(drafted, stood) of every step with lookahead k on these prompts."""
    control = _Long(k)
    for number, prompt in enumerate(prompts):
        requests = speculator.requests(prompt, max_new_tokens=tokens, temperature=temperature, seed=number, ignore_eos=True)
        speculator.reset()
        parts = speculator.parts(temperature > 0)
        start = Context.start(requests, max_length=speculator.target.max_length)
        stopping = {slot: Stopping(request) for slot, request in enumerate(requests)}

        def refill(context: Context | None, start: Context = start) -> Context | None:
            return start if context is None else context if context.size else None

        with torch.inference_mode():
            for _ in sequential(speculator.target, parts.drafter, parts.rule, control, Keyed(), refill, stopping):
                pass
    return control.runs


def examine(
    name: str, speculator: Any, prompts: Sequence[str], *, batch: int, temperature: float, tokens: int = 64, k: int = 16
) -> tuple[Option, list[Prediction]]:
    """A candidate's best option and the predictions for every lookahead.

    Args:
        speculator: with the one method to examine. Speed-ups are those of decoding: the prompt's own forwards are left out.
    """
    sampled = temperature > 0
    parts, method = speculator.parts(sampled), speculator.method
    if not getattr(parts.drafter, "chain", False):
        raise BadOption(f"{method} drafts trees, whose acceptance the planner does not model", next_step="Compare it with `anydraft bench`")
    runs = observe(speculator, prompts, k=k, tokens=tokens + k, temperature=temperature)
    found = step_costs(speculator, prompts, batch=batch, temperature=temperature)
    copies = not getattr(parts.drafter, "forwards", 0) and speculator._assistant is None
    predictions = from_runs(found, runs, [n for n in LOOKAHEADS if n <= k], batch=batch, recorded=None if copies else k)
    best = max(predictions, key=lambda p: p.speedup)
    curve = curve_of(runs, k)
    model = speculator.assistant_model if speculator._assistant is not None else None
    reason = (
        f"{len(runs)} steps seen: the first draft token stands in {curve[0]:.0%}, {best.tokens_per_step:.2f} tokens a step at k={best.lookahead}; "
        f"a draft level takes {found.draft / found.step(0, batch):.2f} of a plain step, the rest of a step with k={best.lookahead} "
        f"{found.v(best.lookahead + 1, batch) / found.v(1, batch):.2f}"
    )
    memory = sum(p.numel() * p.element_size() for p in model.parameters()) if hasattr(model, "parameters") else 0
    option = Option(
        method=method, candidate=name, lookahead=best.lookahead, speedup=best.speedup, low=best.low, high=best.high, acceptance=curve,
        costs=found.as_dict(), memory_bytes=memory, reason=reason, drafter=fingerprint(model) if memory else None,
    )  # fmt: skip
    return option, predictions


def step_costs(speculator: Any, prompts: Sequence[str], *, batch: int, temperature: float, rounds: int = 6) -> Costs:
    """Costs of whole steps with each lookahead, after the first of these prompts that leaves room for enough of them."""
    asked = {"max_new_tokens": 400, "temperature": temperature, "ignore_eos": True}
    last = BadOption("there is no prompt to measure on", next_step="Give at least one")
    for prompt in prompts:
        requests = [r for n in range(batch) for r in speculator.requests(prompt, seed=n, **asked)]
        speculator.reset()
        parts = speculator.parts(temperature > 0)
        drafter = Rote() if speculator._assistant is None else parts.drafter
        try:
            return whole_steps(speculator.target, drafter, parts.rule, requests, rounds=rounds)
        except BadOption as error:
            last = error
        finally:
            speculator.reset()
    raise last


def ranked(model: str, target: Any, options: Sequence[Option], *, objective: str, batch: int, temperature: float, notes: Sequence[str] = ()) -> Plan:
    """The plan of these options; plain decoding is first where none of them is worth it.

    Raises:
        BadOption: an objective that is none.
    """
    if objective not in ("latency", "throughput"):
        raise BadOption("there is no such objective", got=objective, expected="latency or throughput")
    plain = Option("none", "none", 0, 1.0, 1.0, 1.0, [], {}, 0, f"no candidate is expected to be more than {WORTH:g} times as fast as plain decoding")
    worth = sorted((o for o in options if o.speedup >= WORTH and o.lookahead), key=lambda o: -o.speedup)
    rest = sorted((o for o in options if o not in worth), key=lambda o: -o.speedup)
    return Plan(model, fingerprint(target), objective, batch, temperature, [*worth, plain, *rest], list(notes))
