"""`python -m anydraft.bench.rdk`: does moving a drafter's mass onto tokens that were pruned from its head pay?

Source: redistributing drafter kernels, arXiv:2506.03206. The acceptance of one proposed token is sum over t of min(p(t), Q(t)) exactly, so it is summed
from the laws of both models after the same held-out text (teacher-forced) and nothing is drawn. Half of the texts calibrate (mean law, covariance, tau, mixing
weight), the other half judge.

Q by method: *union* leaves what the drafter puts on pruned or foreign tokens unproposed; *TLI* renormalises; *RDK* moves mass: (1 - w) q' + w s(q').
`dense` has the kernel of the target laws' measured covariance, O(V^2); `first_order` and `prior` are our linear-time forms.
`RDK dense alone` is the dense kernel alone, w = 1.

The section of the docs: `python -m anydraft.bench.rdk --page docs/benchmarks.md --figure docs/figures/rdk.png`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydraft.bench import hardware
from anydraft.bench.pairs import Pair
from anydraft.core.errors import BadOption
from anydraft.pairing import Pair as Vocabularies
from anydraft.vocabulary.redistribution import first_order, prior
from anydraft.vocabulary.statistics import kept_tokens

PRUNED = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)
TEMPERATURES = (0.6, 1.0)
DRAFTERS = ("draft-bpe", "draft-spm")
TAUS = (1e-2, 1e-3, 1e-4)
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
METHODS = ("union", "TLI", "RDK dense", "RDK first_order", "RDK prior", "RDK dense alone")
BEGIN, END = "<!-- rdk: begin -->", "<!-- rdk: end -->"


@dataclass(frozen=True, slots=True, eq=False)
class Laws:
    """Logits of both models after the same places of the same texts."""

    target: Tensor  # f[M, V]
    drafter: Tensor  # f[M, U]
    text: Tensor  # i64[M] which text

    def of(self, texts: Tensor) -> Laws:
        """Only the places of these texts i64[...]."""
        at = torch.isin(self.text, texts)
        return Laws(self.target[at], self.drafter[at], self.text[at])


@dataclass(frozen=True, slots=True)
class Row:
    """Acceptance of one method at one setting."""

    drafter: str
    temperature: float
    pruned: float
    method: str
    kept: int  # tokens that the drafter's head keeps
    acceptance: float
    low: float  # 95 % bootstrap over texts
    high: float
    gain: float  # against TLI on the same places, and its interval
    gain_low: float
    gain_high: float
    weight: float | None = None
    tau: float | None = None


def laws_of(pair: Pair, both: Any, texts: Sequence[str], places: int) -> Laws:
    """Places where a token ends in both tokenizations of a text, evenly spread, at most `places` a text."""
    made: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, text in enumerate(texts):
        ids = pair.tokenizer(text, add_special_tokens=False).input_ids
        own = both.drafter.encode_whole(text)
        ends = [ends_in_text(vocabulary, row) for vocabulary, row in ((both.target, ids), (both.drafter, own))]
        at = {end: n for n, end in enumerate(ends[1])}
        common = [(n, at[end]) for n, end in enumerate(ends[0]) if end in at and end > 0]
        chosen = common[:: max(1, len(common) // places)][:places]
        if not chosen:
            continue
        rows = torch.tensor(chosen)
        with torch.inference_mode():
            p = pair.target(input_ids=torch.tensor([ids])).logits[0, rows[:, 0]].float()
            q = pair.drafter(input_ids=torch.tensor([own])).logits[0, rows[:, 1]].float()
        made.append((p, q, torch.full((len(rows),), number)))
        print(f"\r{number + 1}/{len(texts)} texts", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    target, drafter, text = (torch.cat(parts) for parts in zip(*made))
    return Laws(target, drafter, text)


def ends_in_text(vocabulary: Any, ids: Sequence[int]) -> list[int]:
    """Where each token ends in the text, in bytes; the space that the tokenizer put before the text is not counted."""
    extra = int(vocabulary.strips_prefix and vocabulary.text_of(ids)[:1] == b" ")
    return [end - extra for end in vocabulary.ending(list(ids)).ends]


def experiment(name: str, laws: Laws, both: Any, temperatures: Sequence[float], pruned: Sequence[float]) -> list[Row]:
    """Every row of one drafter."""
    numbers = laws.text.unique()
    learn, judge = laws.of(numbers[::2]), laws.of(numbers[1::2])
    rows: list[Row] = []
    for temperature in temperatures:
        p_learn, p = ((part.target / temperature).softmax(-1) for part in (learn, judge))
        mean = p_learn.mean(0)
        covariance = p_learn.T @ p_learn / len(p_learn) - mean[:, None] * mean[None]
        affinity = {tau: (covariance / tau).softmax(-1) for tau in TAUS}
        for share in pruned:
            keep = kept_tokens(both, mean.double(), 1 - share)
            target_ids, drafter_ids = both.target_ids[keep], both.drafter_ids[keep]
            missing = torch.ones(len(mean), dtype=torch.bool)
            missing[target_ids] = False
            spread = [_spread(part.drafter / temperature, target_ids, drafter_ids, len(mean)) for part in (learn, judge)]
            (_, q_learn), (whole, q) = spread
            settings = {"prior": [(None, prior(mean, missing))], "first_order": [(tau, first_order(mean, tau)) for tau in TAUS]}
            settings["dense"] = [(tau, _dense(kernel, target_ids)) for tau, kernel in affinity.items()]
            found: dict[str, tuple[Tensor, float | None, float | None]] = {
                "union": (torch.minimum(p, whole).sum(-1), None, None),
                "TLI": (torch.minimum(p, q).sum(-1), None, None),
            }
            for form, kernels in settings.items():
                tau, move, weight = _tuned(p_learn, q_learn, kernels, WEIGHTS)
                found[f"RDK {form}"] = (_accepted(p, q, move(q), weight), weight, tau)
            tau, move, _ = _tuned(p_learn, q_learn, settings["dense"], (1.0,))
            found["RDK dense alone"] = (_accepted(p, q, move(q), 1.0), 1.0, tau)
            for method in METHODS:
                accepted, weight, tau = found[method]
                value, gain = (_interval(x, judge.text) for x in (accepted, accepted - found["TLI"][0]))
                rows.append(Row(name, temperature, share, method, int(keep.sum()), *value, *gain, weight=weight, tau=tau))
            print(f"{name}, temperature {temperature:g}, {share:.0%} pruned", file=sys.stderr, flush=True)
    return rows


def _spread(logits: Tensor, target_ids: Tensor, drafter_ids: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """f[M, V] twice: what the drafter's whole law puts on kept tokens, and the same renormalised."""
    law = logits.softmax(-1)[:, drafter_ids]
    whole = torch.zeros(len(law), width)
    whole[:, target_ids] = law
    return whole, whole / whole.sum(-1, keepdim=True).clamp_min(1e-30)


def _dense(kernel: Tensor, ids: Tensor) -> Callable[[Tensor], Tensor]:
    """q'' = M^T q', from the rows of M that q' has mass on."""
    rows = kernel[ids]
    return lambda q: q[:, ids] @ rows


def _accepted(p: Tensor, q: Tensor, moved: Tensor, weight: float) -> Tensor:
    return torch.minimum(p, (1 - weight) * q + weight * moved).sum(-1)


def _tuned(p: Tensor, q: Tensor, kernels: Sequence[tuple[Any, Callable[[Tensor], Tensor]]], weights: Sequence[float]) -> tuple[Any, Any, float]:
    """(tau, kernel, weight) with the highest mean acceptance on the calibration texts; the first among equals."""
    best: tuple[float, Any, Any, float] | None = None
    for tau, move in kernels:
        moved = move(q)
        for weight in weights:
            score = float(_accepted(p, q, moved, weight).mean())
            if best is None or score > best[0] + 1e-9:
                best = (score, tau, move, weight)
    assert best is not None
    return best[1:]


def _interval(values: Tensor, text: Tensor, draws: int = 1000) -> tuple[float, float, float]:
    """Mean over places, and its 95 % percentile bootstrap over texts."""
    numbers, index = text.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, index, values.double()).numpy()
    counts = torch.bincount(index).numpy()
    picks = np.random.default_rng(0).integers(0, len(sums), (draws, len(sums)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sums.sum() / counts.sum()), float(low), float(high)


# -- showing it ------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], command: str, places: int, facts: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        f"`{command}`, {places} places of text; {facts['processor']}, {facts['cores']} cores, torch {facts['torch']}. Computed from the laws of both models,"
        " teacher-forced: acceptance of one proposed token, in brackets its 95 % bootstrap interval over texts.",
        "",
    ]
    for drafter, temperature in dict.fromkeys((r.drafter, r.temperature) for r in rows):
        own = [r for r in rows if (r.drafter, r.temperature) == (drafter, temperature)]
        lines += ["", f"target + {drafter}, temperature {temperature:g}", "", "| pruned | tokens kept | " + " | ".join(METHODS) + " |"]
        lines.append("|---:|---:|" + "---:|" * len(METHODS))
        for share in dict.fromkeys(r.pruned for r in own):
            cells = {r.method: r for r in own if r.pruned == share}
            lines.append(f"| {share:.0%} | {cells['TLI'].kept} | " + " | ".join(_cell(cells[m]) for m in METHODS) + " |")
    return "\n".join([*lines, "", *verdict(rows)])


def _cell(row: Row) -> str:
    weight = f", w = {row.weight:g}" if row.weight is not None and row.method != "RDK dense alone" else ""
    return f"{row.acceptance:.3f} [{row.low:.3f}, {row.high:.3f}]{weight}"


def verdict(rows: Sequence[Row]) -> list[str]:
    """Per form in how many settings it beats TLI for certain, and by how much at most."""
    lines = []
    for method in METHODS[2:]:
        own = [r for r in rows if r.method == method]
        wins = [r for r in own if r.gain_low > 1e-6]
        losses = [r for r in own if r.gain_high < -1e-6]
        line = f"* {method}: above TLI in {len(wins)} of {len(own)} settings, below it in {len(losses)}, no difference that the interval could tell in the rest"
        if wins:
            best = max(wins, key=lambda r: r.gain)
            line += f"; most at {best.pruned:.0%} pruned, {best.drafter}, temperature {best.temperature:g}:"
            line += f" {best.gain:+.4f} [{best.gain_low:+.4f}, {best.gain_high:+.4f}]"
        lines.append(line)
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel a drafter and temperature: acceptance by pruned share.

    Raises:
        BadOption: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise BadOption("the plot needs matplotlib", next_step="pip install 'anydraft[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((r.drafter, r.temperature) for r in rows))
    figure, axes = plt.subplots(-(-len(panels) // 2), min(2, len(panels)), figsize=(11, 4 * -(-len(panels) // 2)), squeeze=False, layout="constrained")
    for axis, (drafter, temperature) in zip(axes.flat, panels):
        for method, style in zip(METHODS, ("s--", "o-", "^-", "v-", "d-", "x:")):
            own = [r for r in rows if (r.drafter, r.temperature, r.method) == (drafter, temperature, method)]
            axis.plot(range(len(own)), [r.acceptance for r in own], style, ms=5, lw=1.4, label=method)
            if method == "TLI":
                axis.fill_between(range(len(own)), [r.low for r in own], [r.high for r in own], alpha=0.12, color=axis.lines[-1].get_color())
        axis.set_xticks(range(len(own)), [f"{r.pruned:.0%}" for r in own])
        axis.set(title=f"target + {drafter}, temperature {temperature:g}", xlabel="pruned from the drafter's head", ylabel="acceptance of one draft")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def put(section: str, page: Path, figure: Path | None) -> None:
    """Replaces what stands between the markers of a page, or adds a section with them at its end; the plot is linked as seen from the page."""
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    if BEGIN not in text:
        text = text.rstrip("\n") + f"\n\n## Redistribution onto pruned tokens (RDK)\n\n{BEGIN}\n{END}\n"
    shown = "" if figure is None else f"\n\n![acceptance by pruned share]({Path(os.path.relpath(figure, page.parent)).as_posix()})"
    body = section + shown
    page.write_text(text[: text.index(BEGIN) + len(BEGIN)] + f"\n\n{body}\n\n" + text[text.index(END) :], encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and writes them where asked."""
    parser = argparse.ArgumentParser(prog="python -m anydraft.bench.rdk", description="Acceptance of union, TLI and RDK by pruned share of the drafter's head.")
    parser.add_argument("--texts", type=int, default=99, help="held-out texts (99)")
    parser.add_argument("--places", type=int, default=24, help="places in each (24)")
    parser.add_argument("--page", type=Path, help="Markdown page to put the section into")
    parser.add_argument("--figure", type=Path, help="where the plot goes")
    asked = parser.parse_args(arguments)
    if asked.texts < 4 or asked.places < 1:
        parser.error("at least 4 texts and 1 place are needed")
    from anydraft import zoo

    texts = [prompt["text"] for prompt in zoo.prompts()][: asked.texts]
    rows: list[Row] = []
    seen = 0
    for name in DRAFTERS:
        pair = Pair.load("target", name)
        widths = [model.get_output_embeddings().weight.shape[0] for model in (pair.target, pair.drafter)]
        both = Vocabularies(pair.tokenizer, widths[0], pair.drafter_tokenizer, widths[1]).aligner.intersection
        laws = laws_of(pair, both, texts, asked.places)
        seen += len(laws.text)
        rows += experiment(name, laws, both, TEMPERATURES, PRUNED)
    section = markdown(rows, _command(asked), seen, hardware.facts())
    print(section)
    if asked.figure is not None:
        draw(rows, asked.figure)
    if asked.page is not None:
        put(section, asked.page, asked.figure)


def _command(asked: argparse.Namespace) -> str:
    """What to type to get the same again; files by the paths that were given, if they are no one's own."""
    files = [f"--{name} {path}" for name, path in (("page", asked.page), ("figure", asked.figure)) if path is not None and not path.is_absolute()]
    return " ".join(["python -m anydraft.bench.rdk", f"--texts {asked.texts} --places {asked.places}", *files])


if __name__ == "__main__":
    main()
