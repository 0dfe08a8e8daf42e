"""`anydraft demo`: a real Python file completed by the bundled target, drafted by the bundled drafter, and what the drafting was worth.

Plain decoding and speculation take turns, so that whatever else the machine does hits both; the ratio shown is the median over
the turns, with the smallest and the largest. The exit code is 1 if the two outputs differ in a single token.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydraft.core.errors import BadOption

if TYPE_CHECKING:
    from rich.console import Console

    from anydraft.speculator import Generation, Speculator

SPECULATION: dict[str, Any] = {"method": "draft_model", "num_assistant_tokens": 3}
"""What was fastest for the bundled pair: docs/log.md, 2026-11-21."""

SHOWN = 6  # lines of the prompt that are shown


def demo(
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 128,
    turns: Annotated[int, typer.Option(help="How often plain decoding and speculation are each measured.")] = 5,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours, also on a terminal.")] = False,
):
    """Complete a real Python file with the bundled models, and measure what the drafting is worth."""
    if turns < 1:
        raise BadOption("--turns is not usable", got=turns, expected="an integer >= 1")
    from anydraft import zoo
    from anydraft.cli import _terminal

    _terminal.quiet()
    out = _terminal.console(no_color)
    given = zoo.demo_prompt()
    plain, speculative = pair()
    before = plain.requests(given["text"], max_new_tokens=max_new_tokens)[0].prompt.tolist()
    introduce(given, out)
    painter = _terminal.Painter(plain.decode, before, out)
    for piece in speculative.stream(before, max_new_tokens=max_new_tokens):  # also the warm-up
        painter.show(piece)
    out.print("\n")
    measured = measure(plain, speculative, before, max_new_tokens, turns)
    report(measured, out)
    if not measured.identical:
        out.print(f"THE OUTPUTS DIFFER, first at token {measured.first_difference}.", style="bold red")
        out.print("This must not happen: please report it, with what `anydraft doctor` prints.")
        raise typer.Exit(1)
    out.print(f"The two outputs are identical, token for token ({len(measured.plain[0].token_ids)} tokens, {2 * turns} runs).")


def pair() -> tuple[Speculator, Speculator]:
    """Plain decoding and speculation with the same loaded models."""
    from anydraft import zoo
    from anydraft.speculator import Speculator

    plain = Speculator.from_pretrained(str(zoo.path("target")), str(zoo.path("draft-bpe")), "none")
    return plain, Speculator(plain.model, plain.tokenizer, plain.assistant_model, plain.assistant_tokenizer, **SPECULATION)


def introduce(given: dict[str, str], out: Console) -> None:
    """Says what will be completed, and shows where the prompt stops."""
    lines = given["text"].splitlines(keepends=True)
    out.print(f"Completing {given['source']} of the Python standard library, which neither model was trained on.")
    out.print(f"Greedy; method {SPECULATION['method']}, {SPECULATION['num_assistant_tokens']} draft tokens a step.")
    if out.is_terminal and not out.no_color:
        out.print("Green: drafted and accepted. Not green: the target's own.")
    out.print()
    if len(lines) > SHOWN:
        out.print(f"... {len(lines) - SHOWN} lines before ...", style="dim")
    out.print("".join(lines[-SHOWN:]), style="dim", end="")


@dataclass
class Measured:
    """Generations of each side with their seconds, in the order of the turns."""

    plain: list[Generation] = field(default_factory=list)
    speculative: list[Generation] = field(default_factory=list)
    plain_s: list[float] = field(default_factory=list)
    speculative_s: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """How many times faster speculation was in each turn, ascending."""
        return sorted(a / b for a, b in zip(self.plain_s, self.speculative_s))

    @property
    def identical(self) -> bool:
        """Whether every run gave the very same tokens."""
        return len({tuple(g.token_ids) for g in self.plain + self.speculative}) == 1

    @property
    def first_difference(self) -> int:
        """Index of the first token that not all runs agree about."""
        made = [g.token_ids for g in self.plain + self.speculative]
        return next((n for n, column in enumerate(zip(*made)) if len(set(column)) > 1), min(map(len, made)))


def measure(plain: Speculator, speculative: Speculator, prompt: list[int], max_new_tokens: int, turns: int) -> Measured:
    """`turns` runs of each, taking turns, after one of plain decoding that is not counted. Seconds of whole calls, prefill included."""
    plain.generate(prompt, max_new_tokens=max_new_tokens)
    measured = Measured()
    for _ in range(turns):
        for side, made, seconds in ((plain, measured.plain, measured.plain_s), (speculative, measured.speculative, measured.speculative_s)):
            start = time.perf_counter()
            made.append(side.generate(prompt, max_new_tokens=max_new_tokens))
            seconds.append(time.perf_counter() - start)
    return measured


def report(measured: Measured, out: Console) -> None:
    """The table: what each side did, and the ratio of the two."""
    from rich import box
    from rich.table import Table

    a, b = measured.plain[0], measured.speculative[0]
    fast, slow = (statistics.median(seconds) for seconds in (measured.speculative_s, measured.plain_s))
    low, *_, high = [*measured.ratios[:1], *measured.ratios]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("plain", justify="right")
    table.add_column("speculation", justify="right")
    table.add_row("tokens/s, median", f"{len(a.token_ids) / slow:.1f}", f"{len(b.token_ids) / fast:.1f}")
    table.add_row("ratio, median (min..max)", "1", f"{statistics.median(measured.ratios):.2f} ({low:.2f}..{high:.2f})")
    table.add_row("mean acceptance length", "1", f"{b.metrics.mean_acceptance_length:.2f}")
    table.add_row("acceptance rate", "", f"{b.metrics.draft_acceptance_rate:.0%}")
    table.add_row("target forwards", str(a.metrics.target_forwards), str(b.metrics.target_forwards))
    out.print(table)
