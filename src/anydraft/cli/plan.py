"""`anydraft plan`: which drafter, which method, which lookahead, for these models and prompts on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def plan(
    model: Annotated[str | None, typer.Option(help="Target: a folder or a hub name. Default: the bundled one.")] = None,
    candidates: Annotated[list[str] | None, typer.Option(help="A drafter's folder or name, or a method without a model; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help='JSON lines with "text" or "prompt", instead of a suite.')] = None,
    suite: Annotated[str, typer.Option(help="Prompts to measure on otherwise: bundled, one of its tasks, a .jsonl or .txt file.")] = "bundled",
    limit: Annotated[int, typer.Option(help="Most prompts run per candidate.", min=1)] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Generated per prompt.", min=8)] = 64,
    objective: Annotated[str, typer.Option(help="latency (one request) or throughput (a batch).")] = "latency",
    batch: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(help="Of the requests to come.")] = 0.0,
    output: Annotated[Path, typer.Option(help="Where to write the plan.")] = Path("plan.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan instead of a table.")] = False,
):
    """Rank candidates by modelled speed-up from measured acceptance and measured times, and say why."""
    from anydraft import zoo
    from anydraft.cli.train import read
    from anydraft.core.errors import AnydraftError, BadOption
    from anydraft.loading import load
    from anydraft.pairing import is_free
    from anydraft.planning.plan import examine, ranked
    from anydraft.speculator import Speculator

    if objective not in ("latency", "throughput"):
        raise BadOption("there is no such objective", got=objective, expected="latency or throughput")
    texts = read(prompts) if prompts is not None else named(suite)
    texts = texts[:: max(1, len(texts) // limit)][:limit]
    if not texts:
        raise BadOption("there is no prompt to measure on", next_step="Give --prompts a file with at least one")
    where = str(model or zoo.path("target"))
    target, tokenizer = load(where)
    options, notes = [], []
    for name in candidates or [str(zoo.path("draft-bpe")), "prompt_lookup"]:
        try:
            drafter, its = (None, None) if is_free(name) else load(name)
            whole = Speculator(target, tokenizer, name if drafter is None else drafter, its)
            methods = whole.assistants[0].methods(temperature > 0)[0] if drafter is not None else [name]
        except AnydraftError as error:
            notes.append(f"{name}: {error}")
            continue
        for method in methods:
            try:
                pair = Speculator(target, tokenizer, drafter, its, method=method, num_assistant_tokens=16)
                options.append(examine(name, pair, texts, batch=batch, temperature=temperature, tokens=max_new_tokens)[0])
            except AnydraftError as error:
                notes.append(f"{name} with {method}: {error}")
    made = ranked(where, target, options, objective=objective, batch=batch, temperature=temperature, notes=notes)
    made.save(output)
    if as_json:
        print(json.dumps({**json.loads(made.to_json()), "vllm": made.vllm(), "llama_cpp": made.llama_cpp()}, indent=2))
        return
    for place, option in enumerate(made.options, 1):
        shown = f"{option.speedup:.2f} [{option.low:.2f}, {option.high:.2f}]" if option.method != "none" else "1.00"
        print(f"{place}. {option.method}  {option.candidate}  k={option.lookahead}  speed-up {shown} (modelled from measured times)")
        print(f"   {option.reason}")
    for note in notes:
        print(f"left out: {note}")
    print(f"vLLM: --speculative-config '{json.dumps(made.vllm())}'" if made.vllm() else "vLLM has no such method")
    print("llama.cpp: " + " ".join(flags) if (flags := made.llama_cpp()) else "llama.cpp has no such method")
    print(f"wrote {output}")


def named(suite: str) -> list[str]:
    """The first turns of a suite, or of one task of the bundled one."""
    from anydraft.bench.suites import BUNDLED_TASKS, bundled, texts

    return [item.prompt for item in bundled() if item.task == suite] if suite in BUNDLED_TASKS else texts(None if suite == "bundled" else suite)
