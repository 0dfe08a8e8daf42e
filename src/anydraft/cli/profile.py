"""`anydraft profile`: latency tables of a target and a drafter, by context length and batch."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer


def profile(
    model: Annotated[str | None, typer.Option(help="Target: a folder or a hub name. Default: the bundled one.")] = None,
    assistant_model: Annotated[str | None, typer.Option(help="Drafter: a folder or a hub name. Default: the bundled one.")] = None,
    contexts: Annotated[str, typer.Option(help="Context lengths, with commas.")] = "64,512",
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1,4",
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("profile.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the file as well.")] = False,
):
    """Measure a draft level, v(n) for several n, and the reading of a token."""
    import torch

    from anydraft import zoo
    from anydraft.engine.fingerprint import fingerprint
    from anydraft.planning.profile import Profile, costs
    from anydraft.speculator import Speculator

    lengths, sizes = numbers("contexts", contexts), numbers("batches", batches)
    pair = Speculator.from_pretrained(model or zoo.path("target"), assistant_model or zoo.path("draft-bpe"), num_assistant_tokens=8)
    longest = pair.target.max_length
    tables = []
    for length in lengths:
        if longest is not None and length + 20 > longest:
            print(f"context {length} is skipped: the model holds {longest} tokens")
            continue
        for batch in sizes:
            pair.reset()
            found = costs(pair.target, pair.parts().drafter, torch.arange(length) % pair.target.vocab_size, batch=batch)
            tables.append({"context": length, "batch": batch, "costs": found.as_dict()})
            verify = "  ".join(f"v({n // batch})={1e3 * s:.2f}" for n, s in found.verify)
            print(f"context {length}, batch {batch}, ms: draft level {1e3 * found.draft:.2f}  {verify}  reading a token {1e3 * found.read:.3f}")
    pair.reset()
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    models = {"target": fingerprint(pair.model), "drafter": fingerprint(pair.assistant_model)}
    made = Profile(models, machine, tables, pair.parts().method)
    made.save(output)
    print(output.read_text(encoding="utf-8") if as_json else f"wrote {output}")


def numbers(name: str, text: str) -> list[int]:
    """Positive integers with commas between them; raises BadOption otherwise."""
    from anydraft.core.errors import BadOption

    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise BadOption(f"--{name} is not usable", got=repr(text), expected="positive integers with commas, such as 64,512")
    return found
