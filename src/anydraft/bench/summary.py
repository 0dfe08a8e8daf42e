"""From stored measurements to the rows of the report: one cell per contender and block, with ratios, acceptance, costs and predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from anydraft.bench import closed_form
from anydraft.bench.closed_form import Costs
from anydraft.bench.grid import BASELINE, CALIBRATION
from anydraft.bench.measure import Measurement, paired_ratio
from anydraft.bench.store import Store
from anydraft.bench.tied import explained

PEER_BASELINE = "transformers plain"


def cells(store: Store) -> list[dict[str, Any]]:
    """Every contender of every block, in the order of the grid; plain types."""
    rows = []
    for block in _blocks(store):
        measured = store.measurements(block["block"])
        costs_line = next((line for line in store.of("costs") if line["block"] == block["block"]), None)
        table = {int(n): s for n, s in costs_line["step_s"].items()} if costs_line else {}
        for member in block["contenders"]:
            rows.append(_cell(block, member, measured, table, store))
        for name, reason in block["skipped"].items():
            rows.append({**_place(block), "contender": name, "system": name.partition(" ")[0], "skipped": reason})
    return rows


def _blocks(store: Store) -> list[dict[str, Any]]:
    """The latest description of each block: a resumed run describes it again."""
    return list({line["block"]: line for line in store.of("block")}.values())


def _place(block: dict[str, Any]) -> dict[str, Any]:
    return {name: block[name] for name in ("block", "target", "drafter", "temperature", "batch_size")}


def _cell(
    block: dict[str, Any], member: dict[str, Any], measured: Sequence[Measurement], step_s: dict[int, float], store: Store
) -> dict[str, Any]:
    timed = [m for m in measured if not m.job.startswith(CALIBRATION)]
    own = [m for m in timed if m.contender == member["name"]]
    fine = [m for m in own if m.error is None and m.tokens]
    row = {
        **_place(block),
        "contender": member["name"],
        "system": member["system"],
        "method": member["method"],
        "schedule": member.get("schedule") or "sequential",
        "line": member["method"],  # what a plot draws as one line
        "k": member["k"],
        "rounds": len(own),
    }
    if row["schedule"] != "sequential":
        row["line"] = f"{row['method']}, {row['schedule']}"
    if member.get("forced"):
        row["line"] += f", {member['forced']}"
    row["error"], row["errors"] = next((m.error for m in own if m.error), None), sum(m.error is not None for m in own)
    if not fine:
        return row
    seconds, tokens = sum(m.seconds for m in fine), sum(m.tokens for m in fine)
    compared = [m for m in fine if m.same is not None]
    firsts = [m.first_s for m in fine if m.first_s is not None]
    row |= {
        "tokens_per_s": tokens / seconds,
        "seconds_per_token": seconds * block["batch_size"] / tokens,
        "time_to_first_token_s": sum(firsts) / len(firsts) if firsts else None,
        "identical": sum(bool(m.same) for m in compared),
        "compared": len(compared),
        "tied": sum(not m.same and explained(m.diverged, m.tied) for m in compared),
        "other_lengths": _other_lengths(timed, compared),
        "peak_bytes": max((m.peak_bytes for m in fine if m.peak_bytes is not None), default=None),
        "to_plain": paired_ratio(timed, member["name"], BASELINE),
        "to_peer_plain": paired_ratio(timed, member["name"], PEER_BASELINE),
        "by_task": _by_task(timed, member["name"]),
    }
    row["floor_share"] = _floor_share(block, store, row["seconds_per_token"])
    if fine[0].facts:
        row |= _from_facts([m.facts for m in fine])
        row |= predictions(block, member, measured, row, step_s)
    return row


def _other_lengths(timed: Sequence[Measurement], compared: Sequence[Measurement]) -> int:
    """Rounds in which not even the number of tokens is that of our plain decoding: whoever stops early looks fast."""
    plain = {(m.job, m.repetition, m.session): m.lengths for m in timed if m.contender == BASELINE and m.error is None}
    return sum(m.lengths != plain.get((m.job, m.repetition, m.session), m.lengths) for m in compared)


def _by_task(timed: Sequence[Measurement], name: str) -> dict[str, Any]:
    tasks = dict.fromkeys(m.job.partition(": ")[0] for m in timed)
    return {task: paired_ratio([m for m in timed if m.job.startswith(f"{task}: ")], name, BASELINE) for task in tasks}


def _floor_share(block: dict[str, Any], store: Store, seconds_per_token: float) -> float | None:
    """The least time in which plain decoding could read its weights, over the time taken; only speculation or a batch exceeds 1."""
    machine = next(iter(store.of("machine")), None)
    if machine is None:
        return None
    floor = closed_form.memory_floor_s(block["weight_bytes"], machine["read_gb_s"])
    return floor / seconds_per_token


def _from_facts(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Acceptance, forwards and the split of time, summed over rounds."""
    counted = ("steps", "all_steps", "batch_steps", "drafted", "accepted", "target_forwards", "draft_forwards")
    total = {name: sum(f[name] for f in facts) for name in counted}
    split = {name: sum(f[name] for f in facts) for name in ("prefill_s", "draft_s", "verify_s", "other_s")}
    deepest = max(len(f["accepted_at"]) for f in facts)
    at = [sum(f["accepted_at"][i] for f in facts if len(f["accepted_at"]) > i) for i in range(deepest)]
    return {
        **total,
        "split_s": split,
        "tokens_per_step": sum(sum(f["accept_lengths"]) for f in facts) / max(1, total["all_steps"]),
        "mean_acceptance_length": 1 + total["accepted"] / max(1, total["steps"]),
        "acceptance_rate": total["accepted"] / max(1, total["drafted"]),
        "accepted_at": [n / max(1, total["steps"]) for n in at],
        "accepted_at_given_before": [n / max(1, before) for n, before in zip(at, [total["steps"], *at])],
        "notes": sorted({note for f in facts for note in f["notes"]}),
        **_parallel([f["schedule"] for f in facts if f.get("schedule")]),
    }


def _parallel(spent: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What parallel schedules did in vain, summed over rounds; nothing for the sequential one."""
    if not spent:
        return {}
    counted = {name: sum(s[name] for s in spent) for name in ("verifications", "wasted_verifications", "cancelled")}
    means = {name: sum(s[name] for s in spent) / len(spent) for name in ("idle_share", "tokens_per_s_per_device")}
    return counted | means


# -- predictions -----------------------------------------------------------------------------------------------------


def predictions(
    block: dict[str, Any], member: dict[str, Any], measured: Sequence[Measurement], row: dict[str, Any], step_s: dict[int, float]
) -> dict[str, Any]:
    """What the closed forms make of this cell's acceptance and of costs measured in other runs; nothing without a fixed lookahead.

    Speed-ups are of the decoding part: prefill costs both alike and is in no closed form.
    """
    k = member["k"]
    if not isinstance(k, int) or not step_s or row["schedule"] != "sequential":  # the closed forms are of drafting and verifying in turn
        return {}
    costs = _costs(measured, member["name"], k, step_s)
    own = {(m.job, m.repetition, m.session): m for m in _of(measured, member["name"])}
    pairs = [(m, own[key]) for m in _of(measured, BASELINE) if (key := (m.job, m.repetition, m.session)) in own]
    if costs is None or not pairs:
        return {}
    per_step = row["tokens_per_step"]
    actual = _decoding(m for m, _ in pairs) / _decoding(m for _, m in pairs)
    nodes = row["drafted"] / max(1, row["all_steps"])
    alpha = closed_form.alpha_of(1 + row["accepted"] / max(1, row["steps"]), k)
    c = costs.d(k) / k
    overhead = costs.overhead / costs.plain_step
    guesses = {
        "textbook": closed_form.speedup_flat(alpha, k, c),
        "with v(n)": closed_form.speedup(closed_form.expected_tokens(alpha, k), costs.d(k), costs.v(k + 1), overhead),
        "measured steps": closed_form.speedup(per_step, costs.d(k) * row["steps"] / max(1, row["all_steps"]), costs.v(1 + nodes), overhead),
    }
    return {
        "c": c, "v": costs.v(k + 1), "overhead": overhead, "alpha": alpha, "plain_step_s": costs.plain_step,
        "decode_speedup": actual, "predicted": guesses, "prediction_error": {name: guess / actual - 1 for name, guess in guesses.items()},
    }  # fmt: skip


def _decoding(measured: Iterable[Measurement]) -> float:
    """Seconds per token without the prompt's part."""
    held = list(measured)
    return sum(m.seconds - m.facts["prefill_s"] for m in held) / sum(m.tokens for m in held)


def _of(measured: Sequence[Measurement], name: str) -> list[Measurement]:
    return [m for m in measured if m.contender == name and m.error is None and m.tokens and not m.job.startswith(CALIBRATION)]


def _costs(measured: Sequence[Measurement], name: str, k: int, step_s: dict[int, float]) -> Costs | None:
    """Costs from the calibration job and the target's own timing; None where either is missing."""
    held = [m for m in measured if m.job.startswith(CALIBRATION) and m.error is None and m.facts]
    plain, own = [m for m in held if m.contender == BASELINE], [m for m in held if m.contender == name]
    if not plain or not own:
        return None
    steps = sum(m.facts["batch_steps"] for m in own)
    drafting = max(1, sum(m.facts["steps"] for m in own) * steps // max(1, sum(m.facts["all_steps"] for m in own)))
    forwards = sum(m.facts["draft_forwards"] for m in own)
    draft_s = sum(m.facts["draft_s"] for m in own)
    return Costs(
        plain_step=sum(m.seconds - m.facts["prefill_s"] for m in plain) / sum(m.facts["batch_steps"] for m in plain),
        overhead=sum(m.facts["other_s"] for m in own) / steps,
        draft_forward=draft_s / forwards if forwards else 0.0,
        draft_step={k: draft_s / drafting},
        verify=step_s,
    )
