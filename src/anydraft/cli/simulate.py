"""`anydraft simulate`: how long plain decoding, SI, DSI and PEARL would take, by a virtual clock; or all four over a grid, as CSV and heat maps."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anydraft.core.errors import BadOption

CELLS = (20, 21, 20)  # latencies, acceptances and lookaheads of the whole grid


def simulate(
    algorithm: Annotated[str, typer.Argument(help="plain, si, dsi, pearl, or grid.")],
    target_latency: Annotated[float, typer.Option(help="Milliseconds of a target forward.")] = 40.0,
    draft_latency: Annotated[float, typer.Option(help="Milliseconds of a drafted token.")] = 4.0,
    acceptance: Annotated[float, typer.Option(help="Share of drafts that are accepted, independent of each other; see --trace.")] = 0.8,
    num_assistant_tokens: Annotated[int | None, typer.Option(help="k. Default: 5; for dsi what the replicas keep up with.", show_default=False)] = None,
    target_replicas: Annotated[int | None, typer.Option(help="SP, for dsi. Default: as many as its rule asks for.", show_default=False)] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to decode; 1000, or 200 a cell of the grid.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of the trace.")] = 0,
    preset: Annotated[str | None, typer.Option(help="A pair's quoted latencies and acceptance; --preset list shows them.")] = None,
    trace: Annotated[Path | None, typer.Option(help="A recorded trace instead of --acceptance: a JSON list of true and false, one a token.")] = None,
    preempt: Annotated[bool, typer.Option("--preempt/--no-preempt", help="Whether a cancel frees its worker at once.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for grid.csv and the four maps.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes for the grid.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
):
    """Simulate speculation by the clock; every figure is modelled, none measured."""
    from anydraft.planning import simulate as sim

    if algorithm == "grid":
        if out is None:
            raise BadOption("the grid needs a folder", next_step="Add --out DIR")
        _grid(out, tokens or 200, jobs)
        return
    if preset == "list":
        for name, quoted in sim.PRESETS.items():
            print(f"{name:30} {quoted.target_ms:5.1f} ms  {quoted.draft_ms:4.1f} ms  acceptance {quoted.acceptance:.2f}  "
                  f"DSI over SI {quoted.quoted_dsi_over_si:.2f}  (quoted)")
        return
    if preset is not None:
        if preset not in sim.PRESETS:
            raise BadOption("there is no such preset", got=preset, expected=", ".join(sim.PRESETS), next_step="--preset list shows them")
        quoted = sim.PRESETS[preset]
        target_latency, draft_latency, acceptance = quoted.target_ms, quoted.draft_ms, quoted.acceptance
    if not 0 <= acceptance <= 1:
        raise BadOption("acceptance is not usable", got=acceptance, expected="a number from 0 to 1")
    if tokens is not None and tokens < 1:
        raise BadOption("tokens is not usable", got=tokens, expected="an integer >= 1")
    flags = _recorded(trace) if trace is not None else sim.drawn_trace(tokens or 1000, acceptance, seed)
    t, d = target_latency / 1e3, draft_latency / 1e3
    if t <= 0 or d <= 0:
        raise BadOption("a latency is not usable", got=f"{target_latency:g} ms, {draft_latency:g} ms", expected="numbers > 0")
    fits = algorithm == "dsi" and target_replicas
    k = num_assistant_tokens if num_assistant_tokens is not None else sim.lookahead_for(t, d, target_replicas or 1) if fits else 5
    needed = sim.replicas_needed(t, d, k) if k > 0 else 0
    made = sim.simulate(algorithm, flags, t, d, k, target_replicas, preempt=preempt)
    plain = sim.simulate("plain", flags, t, d, k)
    settings = {"target_latency_ms": target_latency, "draft_latency_ms": draft_latency, "num_assistant_tokens": k, "seed": seed}
    settings |= {"acceptance": sum(flags) / len(flags), "trace": str(trace) if trace is not None else "independent draws"}
    settings |= {"target_replicas": target_replicas or needed, "replicas_needed": needed} if algorithm == "dsi" else {}
    result = {"algorithm": algorithm, "kind": "modelled", **settings, **made.as_dict(), "speedup_over_plain": plain.total / made.total}
    if preset is not None:
        result["preset"] = {"name": preset, "kind": "quoted", "dsi_over_si": sim.PRESETS[preset].quoted_dsi_over_si}
    print(json.dumps(result) if as_json else _told(result))


def _told(result: dict[str, Any]) -> str:
    lines = [f"{result['algorithm']} (modelled): {result['tokens']} tokens in {result['seconds']:.3f} s, {1e3 * result['seconds_per_token']:.2f} ms per token, "
             f"{result['speedup_over_plain']:.2f} times as fast as plain decoding"]
    if result["algorithm"] == "dsi":
        lines.append(f"k {result['num_assistant_tokens']}, {result['target_replicas']} target replicas, {result['replicas_needed']} needed")
        if result["target_replicas"] < result["replicas_needed"]:
            lines.append("with fewer than that, DSI can be slower than plain decoding")
    lines.append(f"{result['wasted_verifications']} of {result['verifications']} verifications and {result['wasted_drafts']} of "
                 f"{result['drafted_tokens']} drafts wasted; idle {result['idle_share']:.0%}; {result['tokens_per_s_per_device']:.1f} tokens/s per device")
    return "\n".join(lines)


def _recorded(path: Path) -> list[bool]:
    try:
        flags = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(f"{path} cannot be read as a trace", got=error, expected="a JSON list of true and false") from None
    if not isinstance(flags, list) or not flags or not all(isinstance(flag, bool) for flag in flags):
        raise BadOption(f"{path} is no trace", expected="a JSON list of true and false, one for each token")
    return flags


def _grid(folder: Path, tokens: int, jobs: int) -> None:
    import csv
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from anydraft.planning import simulate as sim

    latencies, acceptances, lookaheads = CELLS
    asked = [
        ((i + 1) / latencies, min(j / (acceptances - 1), 0.99), k + 1, tokens, 1000 * i + j)
        for i in range(latencies) for j in range(acceptances) for k in range(lookaheads)
    ]
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(sim.cell, *zip(*asked), chunksize=100))
    else:
        rows = [sim.cell(*one) for one in asked]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "grid.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(sim.COLUMNS)
        writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    _draw(folder, rows)
    slower = sum(row[6] > min(row[4], row[5]) * (1 + 1e-9) for row in rows)
    print(f"{len(rows)} cells of {tokens} tokens in {folder / 'grid.csv'}; DSI is slower than min(SI, plain) in {slower} of them (modelled)")


def _draw(folder: Path, rows: list[Any]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not there, so no maps: pip install 'anydraft[bench]'")
        return
    import numpy as np

    from anydraft.planning import simulate as sim

    best = sim.best(rows)
    cs, as_ = sorted({c for c, _ in best}), sorted({a for _, a in best})
    titles = {"si_over_plain": "SI / plain: time", "dsi_over_si": "SI / DSI: time", "dsi_over_plain": "plain / DSI: time"}
    titles["dsi_over_best"] = "min(SI, plain) / DSI: time"
    for name, cap in sim.MAPS.items():
        values = np.array([[sim.ratio(name, best[c, a]) for c in cs] for a in as_])
        figure = Figure(figsize=(6, 4.8), layout="constrained")
        axes = figure.add_subplot()
        colours = "RdYlGn_r" if name == "si_over_plain" else "viridis"
        image = axes.pcolormesh(cs, as_, values, vmax=min(cap, float(values.max())), shading="nearest", cmap=colours)
        if values.min() < 1 < values.max():
            axes.contour(cs, as_, values, levels=[1.0], colors="black", linewidths=1.5)
        figure.colorbar(image, label=f"ratio (scale ends at {min(cap, float(values.max())):.2f})")
        axes.set(xlabel="c: draft latency / target latency", ylabel="a: acceptance", title=f"{titles[name]} (modelled, each with its best k)")
        figure.savefig(folder / f"{name}.png", dpi=110)
