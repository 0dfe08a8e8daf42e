"""The pictures of the report, one function each: cells in, a figure out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anydraft.core.errors import BadOption

Cell = dict[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666")
"""Okabe and Ito's palette and two more: told apart with colour-blind eyes too."""
MARKERS = "os^DvPX*"


def draw(cells: Sequence[Cell], folder: Path) -> dict[str, str]:
    """Writes every picture that the cells allow as PNG into the folder; returns captions by file name.

    Raises:
        BadOption: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise BadOption("the report's pictures need matplotlib", next_step="pip install 'anydraft[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25})
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, str] = {}
    for name, (picture, caption) in PICTURES.items():
        figure = picture([c for c in cells if c.get("tokens_per_s")])
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=130, bbox_inches="tight")
            plt.close(figure)
            made[f"{name}.png"] = caption
    return made


def embedded(path: Path) -> str:
    """A PNG as a data address, so that the report is one file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _panels(count: int, width: float = 5.4, height: float = 3.6) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    columns = min(2, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def _by_block(cells: Sequence[Cell], keep: Callable[[Cell], bool]) -> dict[str, list[Cell]]:
    held: dict[str, list[Cell]] = {}
    for cell in cells:
        if keep(cell):
            held.setdefault(cell["block"], []).append(cell)
    return held


def _ours(cell: Cell) -> bool:
    return cell["system"] == "anydraft" and isinstance(cell.get("k"), int) and cell.get("method") != "none"


def _methods(cells: Sequence[Cell]) -> dict[str, str]:
    """A colour per method, the same in every picture."""
    names = sorted({c["line"] for c in cells if c.get("line") and c["line"] != "none"})
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}


def _marked(colours: dict[str, str], name: str) -> dict[str, Any]:
    """How a method's line looks; equal lines on top of each other show both markers."""
    place = list(colours).index(name)
    return {"color": colours[name], "marker": MARKERS[place % len(MARKERS)], "ms": 7 - 0.5 * (place % 8), "alpha": 0.85}


def lookahead(cells: Sequence[Cell]) -> Any:
    """Speed-up over our own plain decoding against lookahead, with intervals; dashed: predicted from costs measured elsewhere."""
    colours = _methods(cells)
    held = {b: own for b, own in _by_block(cells, _ours).items() if len({c["k"] for c in own}) > 1}
    if not held:
        return None
    figure, axes = _panels(len(held))
    for axis, (block, own) in zip(axes, held.items()):
        for method in sorted({c["line"] for c in own}):
            line = sorted((c for c in own if c["line"] == method and c["to_plain"]), key=lambda c: c["k"])
            if not line:
                continue
            aside = 0.06 * (list(colours).index(method) - (len(colours) - 1) / 2)  # beside each other, so that no interval hides another
            x, y = [c["k"] + aside for c in line], [c["to_plain"][0] for c in line]
            ratios = [c["to_plain"] for c in line]
            errors = [[max(0, value - low) for value, low, *_ in ratios], [max(0, high - value) for value, _, high, *_ in ratios]]
            axis.errorbar(x, y, yerr=errors, capsize=3, label=method, **_marked(colours, method))
            guessed = [(c["k"] + aside, c["predicted"]["measured steps"]) for c in line if c.get("predicted")]
            if guessed:
                axis.plot(*zip(*guessed), color=colours[method], ls="--", lw=1, alpha=0.8)
        axis.axhline(1, color="black", lw=0.8)
        axis.set(title=block, xlabel="lookahead k (tokens or nodes drafted per step)", ylabel="speed-up (× plain decoding)")
        axis.set_xticks(sorted({c["k"] for c in own}))
        axis.set_ylim(bottom=0)
        axis.title.set_fontsize(9)
    figure.legend(*_legend(colours, held), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def position(cells: Sequence[Cell]) -> Any:
    """Share of drafting steps that accepted at least this many tokens, at the largest lookahead."""
    colours = _methods(cells)
    held = _by_block(cells, lambda c: _ours(c) and bool(c.get("accepted_at")))
    if not held:
        return None
    figure, axes = _panels(len(held))
    for axis, (block, own) in zip(axes, held.items()):
        for method in sorted({c["line"] for c in own}):
            cell = max((c for c in own if c["line"] == method), key=lambda c: c["k"])
            places = range(1, len(cell["accepted_at"]) + 1)
            axis.plot(places, cell["accepted_at"], label=method, **_marked(colours, method))
        axis.set(title=block, xlabel="position in the draft (tokens)", ylabel="accepted there (share of steps)", ylim=(0, 1.02))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.title.set_fontsize(9)
    figure.legend(*_legend(colours, held), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _legend(colours: dict[str, str], held: dict[str, list[Cell]]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    names = [name for name in colours if any(c.get("line") == name for own in held.values() for c in own)]
    return [Line2D([], [], **_marked(colours, name)) for name in names], names


def split(cells: Sequence[Cell]) -> Any:
    """Where the time of one new token goes, in milliseconds."""
    import matplotlib.pyplot as plt

    first = next((c["block"] for c in cells if c.get("split_s")), None)
    own = [c for c in cells if c["block"] == first and c.get("split_s")]
    if not own:
        return None
    own = sorted(own, key=lambda c: c["seconds_per_token"], reverse=True)
    figure, axis = plt.subplots(figsize=(9, 1.4 + 0.32 * len(own)), layout="constrained")
    left = [0.0] * len(own)
    for part, colour in zip(("prefill_s", "draft_s", "verify_s", "other_s"), ("#999999", COLOURS[1], COLOURS[0], COLOURS[4])):
        whole = [sum(c["split_s"].values()) for c in own]
        width = [1000 * c["seconds_per_token"] * c["split_s"][part] / w for c, w in zip(own, whole)]
        axis.barh([c["contender"].removeprefix("anydraft ") for c in own], width, left=left, color=colour, label=part.removesuffix("_s"))
        left = [a + b for a, b in zip(left, width)]
    axis.set(title=first, xlabel="milliseconds per new token")
    axis.title.set_fontsize(9)
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def temperature(cells: Sequence[Cell]) -> Any:
    """Mean acceptance length against temperature, per method at one lookahead."""
    colours = _methods(cells)
    held: dict[str, list[Cell]] = {}
    for cell in cells:
        if _ours(cell) and cell["batch_size"] == min(c["batch_size"] for c in cells):
            held.setdefault(f"{cell['target']} + {cell['drafter']}, batch {cell['batch_size']}", []).append(cell)
    held = {name: own for name, own in held.items() if len({c["temperature"] for c in own}) > 1}
    if not held:
        return None
    figure, axes = _panels(len(held))
    for axis, (name, own) in zip(axes, held.items()):
        everywhere = set.intersection(*({c["k"] for c in own if c["temperature"] == t} for t in {c["temperature"] for c in own}))
        k = max(everywhere, default=None)
        for method in sorted({c["line"] for c in own}):
            line = sorted((c for c in own if c["line"] == method and c["k"] == k), key=lambda c: c["temperature"])
            x, y = [c["temperature"] for c in line], [c["mean_acceptance_length"] for c in line]
            axis.plot(x, y, **_marked(colours, method))
        axis.set(title=f"{name}, lookahead {k}", xlabel="temperature (0 is greedy)", ylabel="accepted length (tokens per step)")
        axis.set_ylim(bottom=1)
        axis.title.set_fontsize(9)
    figure.legend(*_legend(colours, held), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def prediction(cells: Sequence[Cell]) -> Any:
    """Predicted against measured speed-up of the decoding part."""
    import matplotlib.pyplot as plt

    own = [c for c in cells if c.get("predicted")]
    if not own:
        return None
    figure, axis = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    forms = (("textbook", "x", COLOURS[7]), ("with v(n)", "^", COLOURS[4]), ("measured steps", "o", COLOURS[0]))
    for form, marker, colour in forms:
        x, y = [c["decode_speedup"] for c in own], [c["predicted"][form] for c in own]
        axis.scatter(x, y, marker=marker, s=28, color=colour, label=form)
    top = 1.05 * max(max(c["decode_speedup"], *c["predicted"].values()) for c in own)
    axis.plot([0, top], [0, top], color="black", lw=0.8)
    axis.set(xlabel="measured speed-up of decoding (×)", ylabel="predicted speed-up of decoding (×)", xlim=(0, top), ylim=(0, top))
    axis.legend(frameon=False, fontsize=9)
    return figure


def peers(cells: Sequence[Cell]) -> Any:
    """Tokens per second of everybody in the first block."""
    import matplotlib.pyplot as plt

    own = [c for c in cells if c["block"] == cells[0]["block"]] if cells else []
    if len({c["system"] for c in own}) < 2:
        return None
    own = sorted(own, key=lambda c: c["tokens_per_s"])
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.3 * len(own)), layout="constrained")
    systems = list(dict.fromkeys(c["system"] for c in own))
    colours = [COLOURS[0] if c["system"] == "anydraft" else COLOURS[1 + systems.index(c["system"]) % 6] for c in own]
    axis.barh([c["contender"] for c in own], [c["tokens_per_s"] for c in own], color=colours)
    axis.set(title=own[0]["block"], xlabel="tokens per second")
    axis.title.set_fontsize(9)
    axis.grid(axis="y", visible=False)
    return figure


PICTURES: dict[str, tuple[Callable[[Sequence[Cell]], Any], str]] = {
    "peers": (peers, "Tokens per second of every contender in the first block."),
    "lookahead": (lookahead, "Speed-up over our own plain decoding, with 95 % intervals over prompts. Dashed (modelled): the closed form "
                  "with acceptance measured here and costs measured on other prompts."),
    "position": (position, "Unconditional acceptance by position, at the largest lookahead of each method. Trees count the depth reached."),
    "split": (split, "Where the time of a new token goes: prompt, drafting, verification, everything else."),
    "temperature": (temperature, "Mean acceptance length, the target's own token included, against temperature."),
    "prediction": (prediction, "The closed forms (modelled) against what was measured; the line is a perfect prediction."),
}  # fmt: skip
