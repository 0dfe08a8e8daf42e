"""`anydraft generate`: text from a prompt, from standard input or from a file of prompts.

Text streams to the terminal as it becomes certain; `--json` and `--output` give what is known about it as well. A file of prompts is
checked line by line before anything runs, and an output file appears whole or not at all.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from anydraft.core.errors import AnydraftError, BadOption, BadPrompt, UnknownOption, nearest

if TYPE_CHECKING:
    from anydraft.speculator import Generation, Speculator

PROMPTS = ("prompt", "messages", "prompt_token_ids")
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The text to continue; - reads it from standard input.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Target: a folder or a hub name. Default: the bundled pair.")] = None,
    assistant_model: Annotated[list[str] | None, typer.Option(help="Drafter: a folder or a hub name, or a method without a model, such as "
                                                              "prompt_lookup. Repeated: each step asks the one that pays best.")] = None,
    method: Annotated[str, typer.Option(help="A drafter that `anydraft methods` lists, or auto.")] = "auto",
    num_assistant_tokens: Annotated[str, typer.Option(help="Depth of a chain, node budget of a tree, or auto.")] = "auto",
    rule: Annotated[str, typer.Option(help="A rule that `anydraft methods` lists, or auto.")] = "auto",
    control: Annotated[str, typer.Option(help="A lookahead control that `anydraft methods` lists, or auto.")] = "auto",
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For the method, rule or control; repeatable.")] = None,
    schedule: Annotated[str, typer.Option(help="sequential; or dsi or pearl, which draft while the target verifies.")] = "sequential",
    target_replicas: Annotated[int, typer.Option(help="Replicas of the target, for dsi; spares, for pearl.")] = 1,
    executor: Annotated[str, typer.Option(help="Where replicas and drafter of a parallel schedule run: threads, processes or ray.")] = "threads",
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster. Default: a new one on this machine.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A file from `anydraft plan`: its target, drafter, method and lookahead.")] = None,
    profile: Annotated[Path | None, typer.Option(help="A file from `anydraft profile`: costs to decide by, instead of measuring them again.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Use a trained control made for another pair or temperature; only warns.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    min_new_tokens: Annotated[int, typer.Option(help="No end of sequence before this many.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="0 is off.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="0 is off.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="0 is off.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="End the text before this string; repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds, equal texts.")] = None,
    num_return_sequences: Annotated[int, typer.Option(help="Texts per prompt.")] = 1,
    logprobs: Annotated[int | None, typer.Option(help="Log-probability of each token, and of N alternatives (JSON only).")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(DTYPES)}. Default: float32 on a CPU, else auto.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: an accelerator if there is one.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the target on the hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that a model brings along.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message, put into the model's chat template.")] = False,
    input_: Annotated[Path | None, typer.Option("--input", help='Prompts, a JSON object a line: {"prompt": ...}, {"messages": [...]} or '
                                                '{"prompt_token_ids": [...]}, with generation options of its own if need be.')] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSON lines here; the file appears whole or not at all.")] = None,
    batch_size: Annotated[int, typer.Option(help="Most prompts that run at once.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text: text, ids, finish reason, metrics.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours, also on a terminal.")] = False,
):
    """Continue a prompt. On a terminal, tokens that the drafter proposed and the target accepted are green."""
    structured = as_json or output is not None or input_ is not None
    if logprobs is not None and not structured:
        raise BadOption("--logprobs has no place in plain text", next_step="Add --json")
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens, "stop_strings": stop or None, "seed": seed,
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty,
        "num_return_sequences": num_return_sequences, "logprobs": logprobs,
    }
    planned, drafters = None, assistant_model[0] if assistant_model and len(assistant_model) == 1 else assistant_model
    if plan is not None:
        from anydraft.planning.plan import Plan

        if assistant_model or method != "auto" or num_assistant_tokens != "auto":
            raise BadOption("--plan says drafter, method and lookahead", next_step="Leave --assistant-model, --method and --num-assistant-tokens out")
        planned = Plan.load(plan)
        follows = planned.settings()
        model, drafters, method = model or planned.model, follows.get("assistant_model"), follows["method"]
        num_assistant_tokens = str(follows.get("num_assistant_tokens", num_assistant_tokens))
        control = follows.get("control", control) if control == "auto" else control
    jobs, forced = read_jobs(prompt, input_, chat, options), {"force": True} if force else {}
    with destination(output) as lines:
        speculator = load(
            model, drafters, method, lookahead(num_assistant_tokens), device, {**dict(map(named_value, option or ())), **forced}, rule=rule,
            control=control, profile=profile, dtype=chosen_dtype(dtype), revision=revision, trust_remote_code=trust_remote_code, max_batch_size=batch_size,
            schedule=schedule, target_replicas=target_replicas, executor=executor, ray_address=ray_address,
        )
        if planned is not None:
            planned.check(speculator.model, speculator.assistant_model)
        checked = check(speculator, jobs)
        if structured:
            write(run(speculator, jobs, checked), lines or sys.stdout)
        else:
            show(speculator, jobs[0], no_color)


# -- what is asked ---------------------------------------------------------------------------------------------------


class Job:
    """One prompt with its options; `where` names its line in the input file."""

    def __init__(self, given: dict[str, Any], defaults: dict[str, Any], chat: bool, where: str = ""):
        given = dict(given)
        self.where, self.id = where, given.pop("id", None)
        (kind,) = [name for name in PROMPTS if name in given]
        self.prompt: Any = given.pop(kind)
        self.messages: Any = None
        if chat and kind == "prompt":
            self.prompt = [{"role": "user", "content": self.prompt}]
        if kind == "messages" or (chat and kind == "prompt"):
            self.prompt, self.messages = None, self.prompt
        if "stop" in given:
            given["stop_strings"] = given.pop("stop")
        self.options = defaults | given

    @property
    def group(self) -> str:
        """Equal for jobs that can run in one call."""
        return json.dumps({**self.options, "seed": self.options["seed"] is None}, sort_keys=True, default=str)


def read_jobs(prompt: str | None, file: Path | None, chat: bool, options: dict[str, Any]) -> list[Job]:
    """The prompts, whichever way they come, with every value checked that can be checked without a model."""
    if (prompt is None) == (file is None):
        got, how = "neither" if prompt is None else "both", "Give a text, - for standard input, or --input FILE"
        raise BadPrompt("exactly one of PROMPT and --input is needed", got=got, next_step=how)
    from anydraft.options import Options

    Options.parse(options)
    if file is None:
        return [Job({"prompt": sys.stdin.read() if prompt == "-" else prompt}, options, chat)]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadPrompt(f"{file} cannot be read", got=error, expected="a text file of JSON lines in UTF-8") from None
    jobs, wrong = [], []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                jobs.append(Job(parsed_line(line), options, chat, f"{file}:{number}"))
                checked_options(jobs[-1])
            except AnydraftError as error:
                wrong.append(f"{file}:{number}: {error}")
    refuse(wrong)
    if not jobs:
        raise BadPrompt(f"{file} holds no prompt", expected='a JSON object a line, such as {"prompt": "..."}')
    return jobs


def parsed_line(line: str) -> dict[str, Any]:
    """The object on a line, with exactly one prompt in a form that it can have."""
    example = 'an object such as {"prompt": "..."}'
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadPrompt(f"this is no JSON: {error.msg} at column {error.colno}", expected=example) from None
    if not isinstance(given, dict):
        raise BadPrompt("this is no JSON object", got=type(given).__name__, expected=example)
    kinds = [name for name in PROMPTS if name in given]
    if len(kinds) != 1:
        raise BadPrompt("exactly one prompt is needed", got=" and ".join(kinds) or "none", expected="one of " + ", ".join(PROMPTS))
    value = given[kinds[0]]
    fits = {
        "prompt": isinstance(value, str),
        "prompt_token_ids": isinstance(value, list) and bool(value) and all(isinstance(t, int) and not isinstance(t, bool) for t in value),
        "messages": isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value),
    }
    if not fits[kinds[0]]:
        wanted = {"prompt": "a string", "prompt_token_ids": "a list of ids", "messages": 'a list of {"role": ..., "content": ...}'}
        raise BadPrompt(f"{kinds[0]} is not usable", got=json.dumps(value)[:60], expected=wanted[kinds[0]])
    return given


def checked_options(job: Job) -> None:
    """Raises for an option that a line cannot have, or a value that it cannot take."""
    from anydraft.options import Options

    objects = {"logits_processor", "stopping_criteria"} & job.options.keys()
    if objects:
        raise UnknownOption(f"{objects.pop()!r} is an object and cannot stand in a file", next_step="Use the Python interface")
    try:
        Options.parse(job.options)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadOption("an option has a value of the wrong type", got=error) from None


def refuse(wrong: list[str]) -> None:
    """Raises one error that names every bad line."""
    if len(wrong) == 1:
        raise BadPrompt(wrong[0])
    if wrong:
        more = [f"... and {len(wrong) - 20} more"] if len(wrong) > 20 else []
        raise BadPrompt("\n  ".join([f"{len(wrong)} lines cannot be used, and nothing was run:", *wrong[:20], *more]))


def lookahead(text: str) -> int | str:
    """A number, or what `Speculator` will make of the word."""
    return int(text) if text.lstrip("-").isdigit() else text


def named_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE as a name and a Python value: numbers, true and false, lists with commas, else a string.

    >>> named_value("branching=3,2,1,1"), named_value("decay=0.5"), named_value("sibling-kind=distinct")
    (('branching', (3, 2, 1, 1)), ('decay', 0.5), ('sibling_kind', 'distinct'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadOption("--option is not usable", got=repr(text), expected="NAME=VALUE, such as branching=3,2,1,1")
    if "," in value:
        return name.replace("-", "_"), tuple(_scalar(part) for part in value.split(",") if part)
    return name.replace("-", "_"), _scalar(value)


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, (int, float, bool, type(None))) else text


def chosen_dtype(name: str | None) -> str | None:
    """The name, if torch has such a type."""
    if name is not None and name not in DTYPES:
        close = nearest(name, DTYPES)
        hint = f"Did you mean {close!r}?" if close else None
        raise BadOption("--dtype is not usable", got=name, expected=", ".join(DTYPES), next_step=hint)
    return name


# -- doing it --------------------------------------------------------------------------------------------------------


def load(
    model: str | None, assistant: str | list[str] | None, method: str, lookahead: int | str, device: str | None, parts: dict[str, Any], **options: Any
) -> Speculator:
    """The pair, bundled where none is named. parts: what the method, the rule or the control takes by name."""
    from anydraft import zoo
    from anydraft.cli import _terminal
    from anydraft.cli.doctor import devices
    from anydraft.speculator import Speculator

    if device is not None:
        import torch

        try:
            torch.ones(1, device=device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).partition("\n")[0]
            raise BadOption(f"torch cannot use the device {device!r}", got=why, expected=", ".join(devices())) from None
    taken = options.keys() | inspect.signature(Speculator.from_pretrained).parameters.keys()
    for name in taken & parts.keys():
        hint = f"Use --{name.replace('_', '-')} instead of --option"
        raise BadOption(f"{name} is no option of a method, a rule or a control", next_step=hint)
    _terminal.quiet()
    if model is None:
        model = str(zoo.path("target"))
        assistant = assistant or str(zoo.path("draft-bpe"))
    return Speculator.from_pretrained(model, assistant, method, lookahead, device_map=device, **options, **parts)


def check(speculator: Speculator, jobs: list[Job]) -> list[list[int]]:
    """Ids of each job's prompt, after all of them were found to be usable."""
    found, wrong = [], []
    for job in jobs:
        try:
            found.append(speculator.requests(job.prompt, messages=job.messages, **job.options)[0].prompt.tolist())
        except (AnydraftError, TypeError, ValueError, AttributeError) as error:
            if not job.where:
                raise
            wrong.append(f"{job.where}: {error}")
    refuse(wrong)
    return found


def run(speculator: Speculator, jobs: list[Job], ids: list[list[int]]) -> list[tuple[Job, Generation]]:
    """Every job's generations in the order of the jobs. Jobs with equal options share a batch."""
    groups: dict[str, list[int]] = {}
    for n, job in enumerate(jobs):
        groups.setdefault(job.group, []).append(n)
    done: dict[int, list[Generation]] = {}
    for members in groups.values():
        options = dict(jobs[members[0]].options)
        if options["seed"] is not None:
            options["seed"] = [jobs[n].options["seed"] for n in members]
        made = speculator.generate([ids[n] for n in members], **options)
        each = options["num_return_sequences"]
        done |= {n: made[i * each : (i + 1) * each] for i, n in enumerate(members)}
        if any(g.finish_reason == "interrupted" for g in made):
            break
    return [(jobs[n], generation) for n in sorted(done) for generation in done[n]]


def write(done: list[tuple[Job, Generation]], out: TextIO) -> None:
    """A line of JSON for each text. After Ctrl-C: what there is on standard output, and nothing in a file."""
    interrupted = any(generation.finish_reason == "interrupted" for _, generation in done)
    if interrupted and out is not sys.stdout:
        raise KeyboardInterrupt
    for job, generation in done:
        name = {} if job.id is None else {"id": job.id}
        out.write(json.dumps(name | generation.as_dict(), ensure_ascii=False) + "\n")
    out.flush()
    if interrupted:
        raise KeyboardInterrupt


def show(speculator: Speculator, job: Job, no_color: bool) -> None:
    """Streams one text, or prints several one after the other."""
    from anydraft.cli._terminal import Painter, console

    out = console(no_color)
    if job.options["num_return_sequences"] > 1:
        made = speculator.generate(job.prompt, messages=job.messages, **job.options)
        for n, generation in enumerate(made, 1):
            out.file.write(f"--- {n} of {len(made)}\n{generation.text}\n")
        if any(generation.finish_reason == "interrupted" for generation in made):
            raise KeyboardInterrupt
        return
    before = speculator.requests(job.prompt, messages=job.messages, **job.options)[0].prompt.tolist()
    painter, start, finish = Painter(speculator.decode, before, out), time.perf_counter(), None
    try:
        for piece in speculator.stream(job.prompt, messages=job.messages, **job.options):
            painter.show(piece)
            finish = piece.finish_reason
    finally:
        out.file.write("\n")
        out.file.flush()
    if out.is_terminal:
        seconds = time.perf_counter() - start
        speed = f"{painter.tokens / seconds:.1f} tokens/s"
        print(f"[{painter.tokens} tokens, {painter.drafted} of them drafted, {speed}, {finish}]", file=sys.stderr)
        for fact in scheduled(getattr(speculator.schedule, "report", dict)()):
            print(f"[{fact}]", file=sys.stderr)


def scheduled(report: dict[str, Any]) -> list[str]:
    """What a parallel schedule says about its lookahead; nothing for the sequential one.

    >>> scheduled({"schedule": "dsi", "k": 3, "notes": []}), scheduled({})
    (['dsi with k 3'], [])
    """
    return report["notes"] or [f"{report['schedule']} with k {report['k']}"] if report else []


@contextmanager
def destination(path: Path | None) -> Iterator[TextIO | None]:
    """A file that takes its name only when everything was written; None for no path."""
    if path is None:
        yield None
        return
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise BadOption(f"--output {path} cannot be written", got=error.strerror, expected="a file in a folder that exists") from None
    if path.is_dir():
        os.unlink(name)
        raise BadOption(f"--output {path} is a folder", expected="the name of a file")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp makes a file for one user only; this one is an ordinary file
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
