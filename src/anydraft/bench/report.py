"""The report: one HTML file with everything in it, and the same tables as Markdown for the documentation."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from anydraft.bench import plots
from anydraft.bench.store import Store
from anydraft.bench.summary import cells

Cell = dict[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap; }
th { background: #f5f5f5; font-weight: 600; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
tr.peer td { background: #fbf7f0; } tr.bad td { color: #a02020; text-align: left; white-space: normal; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 13px; }
.note { color: #555; font-size: 13px; }
"""

SPEED = {
    "contender": "contender",
    "tokens/s": "tokens_per_s",
    "× plain": "to_plain",
    "× transformers": "to_peer_plain",
    "first token ms": "time_to_first_token_s",
    "ms/token": "seconds_per_token",
    "identical": "identical",
    "floor share": "floor_share",
    "peak MB": "peak_bytes",
}
STEPS = {
    "contender": "contender",
    "accepted length": "mean_acceptance_length",
    "acceptance rate": "acceptance_rate",
    "by position": "accepted_at",
    "target forwards": "target_forwards",
    "draft forwards": "draft_forwards",
    "prefill / draft / verify / other": "split_s",
}
PARALLEL = {
    "contender": "contender",
    "× plain": "to_plain",
    "verifications": "verifications",
    "wasted": "wasted_verifications",
    "cancelled": "cancelled",
    "idle share": "idle_share",
    "tokens/s per device": "tokens_per_s_per_device",
}
MODEL = {
    "contender": "contender",
    "alpha": "alpha",
    "c": "c",
    "v(k+1)": "v",
    "overhead": "overhead",
    "measured ×": "decode_speedup",
    "modelled: textbook": "textbook",
    "modelled: with v(n)": "with v(n)",
    "modelled: measured steps": "measured steps",
}
LEGEND = {
    "SPEED": "tokens/s over the whole call, prompt included. × are ratios of tokens/s to our own and to "
    "transformers' plain decoding, paired within interleaved rounds; intervals are "
    "95 % bootstrap intervals over prompts. identical: greedy rounds with the very ids of our plain decoding; at ties: rounds that first "
    "differ where the two largest logits are closer than forwards of other shapes move them, so that neither token is the wrong one. floor "
    "share: the time in which the weights could be read once at the measured bandwidth, over the time per token; only speculation or a batch "
    "exceeds 1. peak MB: of the whole process, with every contender's models in it.",
    "STEPS": "accepted length = 1 + accepted / steps with a draft; acceptance rate = accepted / drafted; by position: share of steps that "
    "accepted at least that many. Times are shares of the whole.",
    "PARALLEL": "Tasks of the replicas over all rounds; wasted: answered or cancelled without deciding a position. idle share: of the replicas' and the "
    "drafter's wall time. A device is a replica or the drafter, wherever it runs.",
    "MODEL": "alpha: the acceptance probability that explains the accepted length under independence. c, v and overhead in units of one "
    "plain step, measured on prompts that are not among those timed. textbook: (1 - alpha^(k+1)) / ((1 - alpha)(kc + 1)); with v(n): "
    "the same over the measured cost of a step; measured steps: measured tokens per step over the measured cost of a step. In brackets "
    "the error against the measured speed-up of decoding (prefill left out).",
}


def write(store: Store, folder: Path) -> Path:
    """Draws the pictures into folder/plots and writes folder/report.html and folder/report.md from what is stored.

    Raises:
        BadOption: matplotlib is not installed.
    """
    rows = cells(store)
    captions = plots.draw(rows, folder / "plots")
    pictures = "".join(_figure(folder / "plots" / name, caption) for name, caption in captions.items())
    parts = [
        f"<h1>anydraft benchmark</h1><p>{html.escape(headline(store, rows))}</p>",
        *(f"<p>{html.escape(told)}</p>" for told in (plan_line(store, rows), forced_line(store)) if told),
        f"<p class=note>{html.escape(hardware_line(store))}</p>",
        "<h2>Pictures</h2>",
        pictures or "<p>Too few cells for a picture.</p>",
        "<h2>Tables (measured)</h2>",
        _tables(rows, SPEED, "SPEED"),
        _tables([r for r in rows if "split_s" in r], STEPS, "STEPS"),
        *_parallel(rows),
        "<h2>Closed forms (modelled)</h2>",
        f"<p>{html.escape(model_line(rows))}</p>",
        _verification(store),
        _tables([r for r in rows if "predicted" in r], MODEL, "MODEL"),
        "<h2>Speed-up by task (measured)</h2>",
        _task_table(rows),
        "<h2>Failures</h2>",
        failures(rows),
    ]
    head = f'<meta charset="utf-8"><title>anydraft benchmark</title><style>{STYLE}</style>'
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.md").write_text(markdown(store, rows), encoding="utf-8")
    return folder / "report.html"


def _figure(path: Path, caption: str) -> str:
    told = html.escape(caption)
    return f'<figure><img alt="{told}" src="{plots.embedded(path)}"><figcaption>{told}</figcaption></figure>'


def headline(store: Store, rows: Sequence[Cell]) -> str:
    """What was run, in a sentence."""
    settings = store.settings
    fine = [r for r in rows if r.get("tokens_per_s")]
    compared, same = sum(r["compared"] for r in fine), sum(r["identical"] for r in fine)
    blocks = len({r["block"] for r in rows})
    tied = sum(r.get("tied", 0) for r in fine)
    ties = f", {tied} more differ at ties of the target's own arithmetic" if tied else ""
    return (
        f"{len(fine)} cells in {blocks} blocks, suite {settings['suite']}, {settings['max_new_tokens']} new tokens, interleaved rounds. "
        f"{same} of {compared} greedy rounds gave the very ids of plain decoding{ties}."
    )


def hardware_line(store: Store) -> str:
    """Machine, versions and the measured bandwidth."""
    machine = next(iter(store.of("machine")), {})
    if not machine:
        return ""
    return (
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, device {machine['device']}, "
        f"Python {machine['python']}, torch {machine['torch']}, transformers {machine['transformers']}; "
        f"measured read bandwidth {machine['read_gb_s']:.1f} GB/s; {store.sessions} session(s)."
    )


def _parallel(rows: Sequence[Cell]) -> list[str]:
    own = [r for r in rows if "idle_share" in r]
    return ["<h2>Parallel schedules (measured)</h2>", _tables(own, PARALLEL, "PARALLEL")] if own else []


def _verification(store: Store) -> str:
    """v(n): what a target forward of n tokens per row takes, a block per row."""
    costs = list({line["block"]: line for line in store.of("costs")}.values())
    sizes = sorted({int(n) for line in costs for n in line["step_s"]})
    if not sizes:
        return ""
    head = "<th>v(n): ms of one target forward (× that of one token)</th>" + "".join(f"<th>n = {n}</th>" for n in sizes)
    body = ""
    for line in costs:
        one = line["step_s"].get("1")
        held = [line["step_s"].get(str(n)) for n in sizes]
        texts = ["–" if s is None else f"{1000 * s:.2f}" + (f" ({s / one:.2f})" if one else "") for s in held]
        body += f"<tr><td>{html.escape(line['block'])}</td>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>"
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def plan_line(store: Store, rows: Sequence[Cell]) -> str:
    """What the plan said beforehand, beside what was measured; empty without a plan."""
    plan = next(iter(store.of("plan")), None)
    if plan is None:
        return ""
    if plan["method"] == "none":
        return "The plan chose plain decoding: no candidate was modelled to be worth it."
    row = next((r for r in rows if r.get("to_plain") and r["method"] == plan["method"] and r["schedule"] == "sequential"), None)
    measured = shown(row, "to_plain") if row else "nothing yet"
    return (
        f"The plan modelled {plan['method']} ({plan['candidate']}, k = {plan['lookahead']}) at {_ratio(plan['modelled'])} × plain decoding "
        f"beforehand; measured here: {measured}."
    )


def forced_line(store: Store) -> str:
    """What rows are that say "forced", and what weights say that are random; empty without either."""
    rate, names = store.settings.get("forced_acceptance"), (*store.settings.get("targets", ()), *store.settings.get("drafters", ()))
    told = ["Models named random: have random weights: they show what a step of that size costs, and their text means nothing."] if any(
        name.startswith("random:") for name in names
    ) else []
    if rate is not None:
        told.append(
            f"Rows named forced {rate:g}: the drafter's forwards ran, and each of its proposals was then made the target's own token with probability "
            f"{rate:g}, another one otherwise. Their acceptance was set, not found; acceptance rate counts tokens behind a rejection too."
        )
    return " ".join(told)


def model_line(rows: Sequence[Cell]) -> str:
    """The median absolute error of every closed form."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        for form, error in row.get("prediction_error", {}).items():
            errors.setdefault(form, []).append(abs(error))
    told = [f"{form}: median {median(e):.0%}, worst {max(e):.0%} over {len(e)} cells" for form, e in errors.items()]
    return "Absolute error against the measured speed-up. " + "; ".join(told) + "." if told else "No cell with a fixed lookahead has been calibrated."


def failure_lines(rows: Sequence[Cell]) -> list[str]:
    """Errors, skipped contenders, differing outputs and slow-downs, none left out; the same reason in several blocks is told once."""
    told = []
    for kind, key in (("skipped", "skipped"), ("failed", "error")):
        where: dict[tuple[str, str], list[str]] = {}
        for r in rows:
            if r.get(key):
                where.setdefault((r["contender"], r[key]), []).append(r["block"])
        told += [f"{'; '.join(blocks)}: {name} {kind}: {reason}" for (name, reason), blocks in where.items()]
    for r in rows:
        if r.get("compared", 0) > r.get("identical", 0):
            shorter = f", {r['other_lengths']} of them of other lengths" if r.get("other_lengths") else ""
            tied = f", {r['tied']} of them at ties of the target's own arithmetic" if r.get("tied") else ""
            told.append(f"{r['block']}: {r['contender']} gave other ids in {r['compared'] - r['identical']} of {r['compared']} rounds{shorter}{tied}")
        if r["system"] == "anydraft" and r.get("to_plain") and r["to_plain"][2] < 1:
            told.append(f"{r['block']}: {r['contender']} is slower than plain decoding: {shown(r, 'to_plain')}")
    return told


def failures(rows: Sequence[Cell]) -> str:
    """The same as a list in HTML."""
    told = failure_lines(rows)
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in told) + "</ul>" if told else "<p>None.</p>"


def _tables(rows: Sequence[Cell], columns: dict[str, str], legend: str) -> str:
    made = [f"<p class=note>{html.escape(LEGEND[legend])}</p>"]
    for block in dict.fromkeys(r["block"] for r in rows):
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(_row(r, columns) for r in rows if r["block"] == block)
        made.append(f"<h3>{html.escape(block)}</h3><div class=scroll><table><tr>{head}</tr>{body}</table></div>")
    return "".join(made)


def _row(row: Cell, columns: dict[str, str]) -> str:
    problem = row.get("skipped") or (row.get("error") if not row.get("tokens_per_s") else None)
    if problem:
        return f"<tr class=bad><td>{html.escape(row['contender'])}</td><td colspan={len(columns) - 1}>{html.escape(problem)}</td></tr>"
    cells_ = "".join(f"<td>{html.escape(shown(row, key))}</td>" for key in columns.values())
    return f"<tr{'' if row['system'] == 'anydraft' else ' class=peer'}>{cells_}</tr>"


def _task_table(rows: Sequence[Cell]) -> str:
    tasks = list(dict.fromkeys(task for r in rows for task in r.get("by_task", {})))
    made = []
    for block in dict.fromkeys(r["block"] for r in rows):
        head = "<th>contender, × plain [95 %]</th>" + "".join(f"<th>{html.escape(task)}</th>" for task in tasks)
        body = ""
        for r in rows:
            if r["block"] == block and r.get("by_task"):
                body += f"<tr><td>{html.escape(r['contender'])}</td>" + "".join(f"<td>{_ratio(r['by_task'].get(t))}</td>" for t in tasks) + "</tr>"
        made.append(f"<h3>{html.escape(block)}</h3><div class=scroll><table><tr>{head}</tr>{body}</table></div>")
    return "".join(made)


def _ratio(value: Any) -> str:
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]" if value else "–"


def shown(row: Cell, key: str) -> str:
    """A cell's figure as text, with a dash where there is none."""
    if key in row.get("predicted", {}):
        return f"{row['predicted'][key]:.2f} ({row['prediction_error'][key]:+.0%})"
    value = row.get(key)
    if value is None or value == []:
        return "–"
    if key in ("to_plain", "to_peer_plain"):
        return _ratio(value)
    if key == "identical":
        said = f"{value}/{row['compared']}" if row["compared"] else "sampled"
        said += f", {row['tied']} at ties" if row.get("tied") else ""
        return f"{said}, {row['errors']} errors" if row.get("errors") else said
    if key == "accepted_at":
        return " ".join(f"{share:.2f}" for share in value[:8])
    if key == "split_s":
        return " / ".join(f"{part / max(1e-9, sum(value.values())):.0%}" for part in value.values())
    if key == "idle_share":
        return f"{value:.0%}"
    if key == "peak_bytes":
        return f"{value / 1e6:.0f}"
    if key in ("time_to_first_token_s", "seconds_per_token"):
        return f"{1000 * value:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def markdown(store: Store, rows: Sequence[Cell]) -> str:
    """The speed tables and the model errors, to be pasted into documentation."""
    lines = [headline(store, rows), "", hardware_line(store), ""]
    for told in (plan_line(store, rows), forced_line(store)):
        lines += [told, ""] if told else []
    for block in dict.fromkeys(r["block"] for r in rows):
        lines += [f"### {block}", "", "| " + " | ".join(SPEED) + " |", "|---|" + "---:|" * (len(SPEED) - 1)]
        for r in rows:
            if r["block"] == block:
                problem = r.get("skipped") or (r.get("error") if not r.get("tokens_per_s") else None)
                texts = [r["contender"], problem, *[""] * (len(SPEED) - 2)] if problem else [shown(r, key) for key in SPEED.values()]
                lines.append("| " + " | ".join(text.replace("|", "/") for text in texts) + " |")
        lines.append("")
    return "\n".join([*lines, model_line(rows), ""])
