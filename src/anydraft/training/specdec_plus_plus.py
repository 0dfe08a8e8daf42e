"""Trains the acceptance head of SpecDec++ for one pair and one temperature, and chooses its threshold by measured time.

Source: Huang et al. 2024, arXiv:2405.19715, section 3: cross entropy with the rejection class weighed 6 to 1. Differs: the examples are drafts
of the production loop and whether each of their tokens stood, instead of target texts with drafted tokens mixed in; so the labels are
0 or 1, and the threshold is chosen by seconds per token and not given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from anydraft.control.specdec_plus_plus import SpecDecPlusPlus
from anydraft.core.errors import BadOption, UnsupportedModel
from anydraft.core.records import Level
from anydraft.core.trained import Trained
from anydraft.training.traces import Run, fit, record, seconds_per_token

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
REJECTION = 6.0


class Head(torch.nn.Module):
    """f[M, D] -> f[M, 2]."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(blocks))
        self.out = torch.nn.Linear(width, 2)
        for block in self.blocks:
            torch.nn.init.zeros_(block.get_parameter("weight"))  # a residual block starts as the identity

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """See the class."""
        for block in self.blocks:
            hidden = hidden + torch.nn.functional.silu(block(hidden))
        return self.out(hidden)

    def weights(self) -> dict[str, torch.Tensor]:
        """Named as the control reads them."""
        named = [(f"block{i}", block) for i, block in enumerate(self.blocks)] + [("out", self.out)]
        return {f"{name}.{part}": getattr(layer, part) for name, layer in named for part in ("weight", "bias")}


def examples(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """(f[M, D], i64[M]): the hidden state behind each judged token but the last drafted, and whether that token stood.

    The state seen at level i + 1 is that of token i.
    """
    known = min(len(run.seen) - 1, run.stood + 1)
    return run.seen[1 : known + 1], (torch.arange(max(0, known)) < run.stood).long()


def look(level: Level) -> torch.Tensor:
    """f[B, D] of a level."""
    if level.hidden is None:
        raise UnsupportedModel("this drafter offers no hidden states", next_step="Train DISCO instead, which needs the law alone")
    return level.hidden


def train(
    speculator: Any, prompts: Sequence[str], into: Path, *, temperature: float = 0.0, k: int = 12, tokens: int = 96, seed: int = 0,
    blocks: int = 0, say: Callable[[str], None] = print,
) -> Trained:  # fmt: skip
    """Records, fits, chooses, saves; arguments as in disco.py. `blocks`: residual blocks in front of the last layer."""
    if len(prompts) < 4:
        raise BadOption("too few prompts to train on", got=len(prompts), expected="at least 4")
    held = list(prompts[3::4])
    seen = [prompt for n, prompt in enumerate(prompts) if n % 4 != 3]
    speculator._assistant.offers_hidden = True
    runs = record(speculator, seen, look, k=k, tokens=tokens, temperature=temperature)
    pairs = [examples(run) for run in runs]
    hidden, stood = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    share = float(stood.float().mean()) if len(stood) else 0.0
    if not 0 < share < 1:
        raise BadOption("the traces hold one class only", got=f"{share:.0%} accepted of {len(stood)}", next_step="Give more prompts, or another drafter")
    say(f"{len(stood)} judged tokens of {len(runs)} drafts, {share:.0%} stood")
    torch.manual_seed(seed)
    with torch.inference_mode(False):
        head = Head(hidden.shape[1], blocks)
        loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([REJECTION, 1.0]))
        reached = fit(head, hidden.clone(), stood.clone(), loss, epochs=200, rate=3e-3)
    made = Trained("specdec_plus_plus", speculator.pace.pair, temperature, head.weights(), {"threshold": 0.5, "most": float(k)})
    made.save(into)
    controls = {threshold: SpecDecPlusPlus(into, threshold, force=True) for threshold in THRESHOLDS}
    cost = seconds_per_token(speculator, held, controls, tokens=tokens, temperature=temperature)
    best = min(cost, key=cost.__getitem__)
    for threshold, seconds in cost.items():
        say(f"threshold {threshold:.2f}: {1e3 * seconds:.2f} ms a token on {len(held)} held prompts{'  <- chosen' if threshold == best else ''}")
    notes = {"tokens": len(stood), "accepted": round(share, 4), "loss": round(reached, 4), "seconds_per_token": {str(t): s for t, s in cost.items()}}
    made = Trained(made.kind, made.pair, temperature, made.weights, {"threshold": best, "most": float(k)}, notes)
    made.save(into)
    return made
