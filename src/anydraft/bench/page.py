"""Puts a finished benchmark into a Markdown page: `anydraft bench --out FOLDER --page docs/benchmarks.md`.

Everything between the two markers of the page is replaced and the plots are copied beside it, so no figure of the page is typed by hand. What
others report is quoted with its source and hardware in a column of its own, and never mixed with what was measured or modelled here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anydraft.bench import report
from anydraft.bench.store import Store
from anydraft.bench.summary import cells
from anydraft.core.errors import BadOption

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

QUOTED = {
    "draft_model": ("1.79×, Vicuna-7B + 68M, RTX 3090", "Spec-Bench leaderboard"),
    "prompt_lookup": ("9.8× on a copy task, GPU", "kekzl/imp"),
    "token_recycling": ("2.1 to 2.2×, 7B to 70B, GPU", "arXiv:2408.08696"),
    "slem": ("1.5 to 1.9×, CodeLlama-13B and Llama-3.1-70B, GPU", "Hugging Face on universal assisted generation"),
    "tli": ("up to 2.5×, GPU", "Hugging Face on arXiv:2502.05202"),
    "tli_slem": ("up to 2.8×, GPU", "arXiv:2502.05202"),
}
"""What others report, as they report it: another pair on other hardware, so a bound on nothing here."""


def rewrite(folder: Path, page: Path) -> None:
    """Replaces the measured part of a page and copies the plots to plots/ beside it.

    Raises:
        BadOption: there is no benchmark in the folder, or the page has no markers.
    """
    results = folder / "results.jsonl"
    if not results.is_file():
        raise BadOption(f"there is no benchmark in {folder.name}", expected="a results.jsonl", next_step="Run `anydraft bench --out` first")
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise BadOption(f"{page.name} has no place for figures", expected=f"{BEGIN} and {END}")
    store = Store.read(results)
    report.write(store, folder)
    rows = cells(store)
    pictures = sorted((folder / "plots").glob("*.png"))
    (page.parent / "plots").mkdir(exist_ok=True)
    for picture in pictures:
        shutil.copy(picture, page.parent / "plots" / picture.name)
    shown = "\n".join(f"![{picture.stem}](plots/{picture.name})" for picture in pictures)
    body = "\n\n".join([three_columns(rows), report.markdown(store, rows), failures(rows), shown])
    page.write_text(text[: text.index(BEGIN) + len(BEGIN)] + f"\n\n{body}\n\n" + text[text.index(END) :], encoding="utf-8")


def three_columns(rows: Sequence[dict[str, Any]]) -> str:
    """Per method its best greedy lookahead at batch 1: measured, modelled and quoted side by side."""
    lines = ["| method | measured here, × plain | modelled here, × plain (decoding only) | quoted | source of the quotation |", "|---|---:|---:|---|---|"]
    greedy = [r for r in rows if r["system"] == "anydraft" and r.get("to_plain") and r["temperature"] == 0 and r["batch_size"] == 1]
    for method in dict.fromkeys(r["line"] for r in greedy if r["method"] != "none"):
        best = max((r for r in greedy if r["line"] == method), key=lambda r: r["to_plain"][0])
        modelled = f"{report.shown(best, 'measured steps')}" if best.get("predicted") else "–"
        quoted, source = QUOTED.get(method, ("–", "–"))
        lines.append(f"| {method} (k = {best['k']}, {best['drafter']}) | {report.shown(best, 'to_plain')} | {modelled} | {quoted} | {source} |")
    return "\n".join(lines)


def failures(rows: Sequence[dict[str, Any]]) -> str:
    """The report's failures as a list."""
    told = report.failure_lines(rows)
    return "**Failures, differences and slow-downs**\n\n" + ("\n".join(f"* {line}" for line in told) if told else "None.")
