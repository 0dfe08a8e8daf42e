"""Trains the classifier of DISCO for one pair and one temperature, and chooses its threshold by measured time.

Source: Mamou et al. 2024, arXiv:2405.04304, section 3. The label of a level is whether the next token stands, which is the decision taken;
classes are weighed to equal mass; the threshold is the one with the least seconds per token on prompts that were not trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from anydraft.control.disco import DISCO, FEATURES, features
from anydraft.core.errors import BadOption
from anydraft.core.trained import Trained
from anydraft.training.traces import fit, record, seconds_per_token

THRESHOLDS = (0.2, 0.35, 0.5, 0.65, 0.8)


class Net(torch.nn.Module):
    """f[M, 12] -> f[M] logits."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.inner, self.out = torch.nn.Linear(FEATURES, width), torch.nn.Linear(width, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.out(self.inner(inputs).relu()).squeeze(-1)

    def weights(self) -> dict[str, torch.Tensor]:
        """Named as the control reads them."""
        return {f"{name}.{part}": getattr(layer, part) for name, layer in (("in", self.inner), ("out", self.out)) for part in ("weight", "bias")}


def train(
    speculator: Any, prompts: Sequence[str], into: Path, *, temperature: float = 0.0, k: int = 12, tokens: int = 96, seed: int = 0,
    say: Callable[[str], None] = print,
) -> Trained:  # fmt: skip
    """Records, fits, chooses, saves.

    Args:
        speculator: a pair with a drafting model.
        prompts: texts; every fourth is kept for choosing the threshold.
        k: the constant lookahead of the traces, and the longest draft later.
        tokens: generated per prompt.
    Raises:
        BadOption: too few prompts, or traces in which every token stands or none does.
    """
    if len(prompts) < 4:
        raise BadOption("too few prompts to train on", got=len(prompts), expected="at least 4")
    held = list(prompts[3::4])
    seen = [prompt for n, prompt in enumerate(prompts) if n % 4 != 3]
    runs = record(speculator, seen, features, k=k, tokens=tokens, temperature=temperature)
    pairs = [run.examples() for run in runs]
    inputs, labels = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    share = float(labels.mean()) if len(labels) else 0.0
    if not 0 < share < 1:
        raise BadOption("the traces hold one class only", got=f"{share:.0%} accepted of {len(labels)}", next_step="Give more prompts, or another drafter")
    say(f"{len(labels)} judged levels of {len(runs)} drafts, {share:.0%} followed by a token that stood")
    torch.manual_seed(seed)
    net = Net()
    even = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor((1 - share) / share))
    with torch.inference_mode(False):
        loss = fit(net, inputs.clone(), labels.clone(), even, epochs=400, rate=1e-2)
    made = Trained("disco", speculator.pace.pair, temperature, net.weights(), {"threshold": 0.5, "most": float(k)})
    made.save(into)
    controls = {threshold: DISCO(into, threshold, force=True) for threshold in THRESHOLDS}
    cost = seconds_per_token(speculator, held, controls, tokens=tokens, temperature=temperature)
    best = min(cost, key=cost.__getitem__)
    for threshold, seconds in itertools.chain(cost.items()):
        say(f"threshold {threshold:.2f}: {1e3 * seconds:.2f} ms a token on {len(held)} held prompts{'  <- chosen' if threshold == best else ''}")
    notes = {"levels": len(labels), "accepted": round(share, 4), "loss": round(loss, 4), "seconds_per_token": {str(t): s for t, s in cost.items()}}
    made = Trained(made.kind, made.pair, temperature, made.weights, {"threshold": best, "most": float(k)}, notes)
    made.save(into)
    return made
