"""`anydraft verify`: shows on your own models, with your own options, that a method loses nothing, or where it does."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from anydraft.speculator import Speculator
    from anydraft.testing.verify import Plan, Report

CONTROLS = {"greedy": "accepted_unseen", "sampling": "accepted_unseen"}
"""The planted mistake that every run must catch: trust in the drafter. It shows wherever target and drafter differ at all."""


def verify(
    model: Annotated[str | None, typer.Option(help="The target: a bundled name, a folder or a hub name. Default: target.")] = None,
    assistant_model: Annotated[str | None, typer.Option(help="The drafter, likewise; 'none' for none. Default: draft-bpe.")] = None,
    method: Annotated[str, typer.Option(help="A name that `anydraft methods` lists under drafters.")] = "auto",
    num_assistant_tokens: Annotated[str, typer.Option(help="Lookahead: a number, or auto.")] = "auto",
    rule: Annotated[str, typer.Option(help="The rule; auto chooses by what the drafter makes.")] = "auto",
    control: Annotated[str, typer.Option(help="The lookahead control; auto drafts in every step, except that method auto decides for itself.")] = "auto",
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For the method, rule or control; repeatable.")] = None,
    temperature: Annotated[float, typer.Option(help="0 checks greedy decoding only.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0: all tokens.")] = 0,
    top_p: Annotated[float, typer.Option(help="1: all tokens.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="0: all tokens.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="1: none.")] = 1.0,
    effect: Annotated[float, typer.Option(help="Total variation of the first token's law that the test must see.")] = 0.15,
    power: Annotated[float, typer.Option(help="With this probability.")] = 0.95,
    false_alarm: Annotated[float, typer.Option(help="Probability that a lossless method is called lossy.")] = 0.001,
    samples: Annotated[int | None, typer.Option(help="Texts per prefix; computed from the three above if left out.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompts of yours: a text file or a JSONL suite; the bundled ones if left out.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Texts sampled at once.")] = 256,
    seed: Annotated[int, typer.Option(help="Another seed, another sample.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; float32 on a CPU if left out.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    plant: Annotated[str | None, typer.Option(help="Plant a mistake and see the check fail; 'list' names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every method at temperatures 0, 0.7 and 1 with top-p 0.9, and planted mistakes that must "
                                                           "fail; on both bundled pairs, or on the models named. Needs --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="For --all: folder for verified.jsonl and verified.md; an existing one is continued.")] = None,
    page: Annotated[Path | None, typer.Option(help="For --all: also put the table into this Markdown page, between its markers.")] = None,
    jobs: Annotated[int, typer.Option(help="For --all: processes that run side by side; each takes 5 to 12 GB.")] = 1,
):
    """Check on your own models that a method is lossless: exit code 0 if it is, 1 if it is not."""
    if plant == "list":
        list_plants()
        return
    from anydraft.cli.generate import lookahead, named_value
    from anydraft.testing.verify import Plan

    plan = Plan(effect=effect, power=power, false_alarm=false_alarm, samples=samples, batch=batch_size, seed=seed)
    check(plan)
    if everything or out or page or jobs != 1:
        own = {"--method": method != "auto", "--plant": plant, "--option": option, "--temperature": temperature, "--json": as_json, "--rule": rule != "auto"}
        if not every_method((model, assistant_model, dtype, device), plan, prompts, everything, out, page, jobs, [name for name, used in own.items() if used]):
            raise typer.Exit(1)
        return
    options = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty, "temperature": temperature}
    parts = {
        "method": method,
        "num_assistant_tokens": lookahead(num_assistant_tokens),
        "rule": rule,
        "control": control,
        **dict(map(named_value, option or ())),
    }
    places = (model or "target", None if assistant_model == "none" else assistant_model or "draft-bpe", dtype, device)
    report = examine(places, parts, options, plan, plant, prompts, say=lambda said: print(said, file=sys.stderr))
    print(json.dumps(report.as_dict(), indent=2) if as_json else report.verdict)
    if not report.passed:
        raise typer.Exit(1)


def check(plan: Plan) -> None:
    """Raises BadOption for a plan that cannot be carried out."""
    from anydraft.core.errors import BadOption

    for name, value, low, high in (("effect", plan.effect, 0, 1), ("power", plan.power, 0, 1), ("false-alarm", plan.false_alarm, 0, 1)):
        if not low < value < high:
            raise BadOption(f"--{name} is not usable", got=value, expected="a number between 0 and 1")
    if plan.samples is not None and plan.samples < 8:
        raise BadOption("--samples is not usable", got=plan.samples, expected="at least 8")
    if plan.batch < 1:
        raise BadOption("--batch-size is not usable", got=plan.batch, expected="at least 1")


def every_method(
    places: tuple[str | None, str | None, str | None, str | None], plan: Plan, prompts: str | None, everything: bool, out: Path | None, page: Path | None,
    jobs: int, not_taken: list[str],
) -> bool:  # fmt: skip
    """`--all`: whether every method passed and every planted mistake failed. Raises BadOption for options that do not go together."""
    from anydraft.cli._verify_all import BUNDLED, check_page, verify_all
    from anydraft.core.errors import BadOption

    if not everything:
        raise BadOption("--out, --page and --jobs are for --all", next_step="Add --all, or leave them out")
    if jobs < 1:
        raise BadOption("--jobs is not usable", got=jobs, expected="at least 1")
    if not_taken:
        raise BadOption(f"--all does not take {', '.join(not_taken)}", expected="it runs every method at three temperatures", next_step="Leave it out")
    if out is None:
        raise BadOption("--all needs a folder for what it finds", next_step="Add --out FOLDER; the same command continues there if it was stopped")
    if page is not None:
        check_page(page)
    model, assistant_model, dtype, device = places
    pairs = BUNDLED if model is None and assistant_model is None else [(model or "target", assistant_model or "draft-bpe")]
    named = [(target, None if drafter == "none" else drafter, dtype, device) for target, drafter in pairs]
    return verify_all(named, plan, prompts, out, page, examine, jobs)


def examine(
    places: tuple[str, str | None, str | None, str | None],
    parts: dict[str, Any],
    options: dict[str, Any],
    plan: Plan,
    plant: str | None = None,
    prompts: str | None = None,
    say: Any = lambda said: None,
) -> Report:
    """Loads the pair, takes fingerprints, builds the decodings that are compared, and verifies.

    Args:
        places: target, drafter, dtype, device. parts: keywords of `Speculator`. options: keywords of `generate`.
        plant: the mistake to put into the method under test, None for none.
    """
    from anydraft.bench.pairs import Pair
    from anydraft.bench.suites import texts
    from anydraft.cli import _terminal
    from anydraft.options import Options
    from anydraft.speculator import Speculator
    from anydraft.testing import planted
    from anydraft.testing.unchanged import fingerprint
    from anydraft.testing.verify import Subject
    from anydraft.testing.verify import verify as run

    mistake = planted.get(plant) if plant else None
    refuse_plant(parts["method"], plant)
    _terminal.quiet()
    target, drafter, dtype, device = places
    pair = Pair.load(target, drafter, dtype=dtype, device=device)
    before = {"target": (pair.target, fingerprint(pair.target))}
    if pair.drafter is not None:
        before["drafter"] = (pair.drafter, fingerprint(pair.drafter))
    made = decodings(pair, parts, mistake)
    target = Speculator(pair.target, pair.tokenizer, method="none").target
    encoded = [list(pair.tokenizer(text).input_ids) for text in texts(prompts)]
    limit = (target.max_length or 1 << 30) - plan.greedy_tokens - 1
    encoded = [ids[:limit] for ids in encoded if ids]
    request = Options.parse(options).requests([_tensor(encoded[0])], frozenset(pair.ends), target.vocab_size, target.max_length)[0]
    name = f"{parts['method']}{f' with {plant} planted' if plant else ''} on {pair.target_name} + {pair.drafter_name or 'no drafter'}"
    name += f" at temperature {options['temperature']:g}" + (f", top-p {options['top_p']:g}" if options["top_p"] < 1 else "")
    subject = Subject(
        name=name, model=pair.target, request=request, options=options, prompts=encoded, models=before, drafts=parts["method"] != "none",
        keeps_path=mistake is None and parts["method"] != "none" and keeps_path(made["speculative"], options["temperature"] > 0), **made,
    )  # fmt: skip
    return run(subject, plan, say)


def decodings(pair: Any, parts: dict[str, Any], mistake: Any = None) -> dict[str, Any]:
    """What `Subject` compares: the method, with a planted mistake if one is given, plain decoding, and the controls that must be caught.

    A named method drafts in every step unless another control was asked for, because what is not drafted is not tested; `auto` does what
    `generate` does, except at temperature 0, where a clock decides whether it drafts at all. Plain decoding itself is compared with transformers'.
    """
    from anydraft.speculator import Speculator
    from anydraft.testing import planted
    from anydraft.testing.reference import Reference

    if parts["method"] == "none":
        own = Speculator(pair.target, pair.tokenizer, method="none")
        wrong = planted.Hotter(own)
        return {"speculative": own, "plain": Reference(pair.target, pair.ends), "control": dict.fromkeys(CONTROLS, wrong)}
    steady = {**parts, "control": "fixed"} if parts.get("control", "auto") == "auto" else parts
    free = parts if parts["method"] == "auto" else steady
    wanted = {"greedy": steady, "sampling": free}
    controls = {name: speculator(pair, wanted[name], planted.get(plant)) for name, plant in CONTROLS.items()} if mistake is None else {}
    return {
        "speculative": speculator(pair, free, mistake),
        "greedily": speculator(pair, steady, mistake),
        "plain": Speculator(pair.target, pair.tokenizer, method="none"),
        "control": controls,
    }


def refuse_plant(method: str, plant: str | None) -> None:
    """Raises BadOption for a mistake that has nothing to show itself in."""
    from anydraft.core.errors import BadOption

    if plant and method == "none":
        raise BadOption("method 'none' drafts nothing, so no mistake can be planted in it", got=plant, next_step="Choose a method that drafts")


def speculator(pair: Any, parts: dict[str, Any], mistake: Any = None) -> Speculator:
    """The method under test, with a planted mistake if one is given."""
    from anydraft.speculator import Speculator

    class Planted(Speculator):
        """The same path in every other respect."""

        def parts(self, *args: Any, **kwargs: Any) -> Any:
            made = super().parts(*args, **kwargs)
            if mistake is None:
                return made
            _, drafter, rule, control = mistake.into((None, made.drafter, made.rule, made.control))
            return replace(made, drafter=drafter, rule=rule, control=control)

    return Planted(pair.target, pair.tokenizer, pair.drafter, pair.drafter_tokenizer, **parts)


def keeps_path(subject: Speculator, sampled: bool) -> bool:
    """Whether the rule's header promises the tokens of plain decoding with the same seed."""
    from anydraft.core import discover

    rule = type(subject.parts(sampled).rule).__module__.rpartition(".")[2]
    return any(m.name == rule and m.fields["Keeps"].startswith("path") for m in discover.methods("rules"))


def list_plants() -> None:
    """Every planted mistake: its name, what is wrong, and the drafts that reveal it."""
    from anydraft.testing import planted

    for name in planted.names():
        mistake = planted.get(name)
        print(f"{name:24} {mistake.what} Shows with: {mistake.shows}.")


def _tensor(ids: list[int]) -> Any:
    import torch

    return torch.tensor(ids)
