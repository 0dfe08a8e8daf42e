"""SpecDec++: a head on the drafter's hidden state predicts acceptance; stop when some drafted token is probably lost.

Source:   Huang et al. 2024, arXiv:2405.19715, section 3; head and weights of the loss as in the authors' code
State:    none per request; the head belongs to one pair and one temperature
Cost:     one D -> D residual block and D -> 2 per drafted token; the drafter's hidden states
Differs:  one residual block of its own weights per layer (the released code repeats one block); a hidden state tells about the token that
          was fed to make it, so the newest token's own acceptance is not yet known when the question is asked
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from anydraft.core.errors import UnsupportedModel
from anydraft.core.records import Context, Level, Size
from anydraft.core.trained import find


def accepts(weights: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """f[B]: the predicted probability that the token behind each hidden state f[B, D] is accepted."""
    state, block = hidden.float(), 0
    while f"block{block}.weight" in weights:
        state = state + torch.nn.functional.silu(state @ weights[f"block{block}.weight"].T + weights[f"block{block}.bias"])
        block += 1
    return (state @ weights["out.weight"].T + weights["out.bias"]).softmax(-1)[:, 1]


class SpecDecPlusPlus:
    """Args:
    weights: a file from `anydraft train specdec_plus_plus`; None: the one bundled for this pair.
    threshold: stop when the chance that a drafted token is refused exceeds it; None: the file's.
    min_assistant_tokens, max_assistant_tokens: a draft's bounds; None: the file's upper one.
    shipped, pair: where bundled files are, and which models these are; the house gives both.
    force: only warn where the file belongs to another pair or temperature.
    Raises:
        BadModel: no file. WrongPair: another pair's, or a request at another temperature.
        UnsupportedModel: a drafter without hidden states, when it first drafts.
    """

    needs = ("hidden",)

    def __init__(
        self,
        weights: str | Path | None = None,
        threshold: float | None = None,
        min_assistant_tokens: int = 1,
        max_assistant_tokens: int | None = None,
        shipped: Path | None = None,
        pair: str | None = None,
        force: bool = False,
    ):
        self.trained, self.force = find("specdec_plus_plus", weights, shipped, pair), force
        self.trained.check_pair(pair, force)
        self.threshold = self.trained.settings["threshold"] if threshold is None else threshold
        self.least = min_assistant_tokens
        self.most = int(self.trained.settings["most"] if max_assistant_tokens is None else max_assistant_tokens)

    def open(self, context: Context) -> None:
        """Refuses requests at a temperature that the head has not seen."""
        for request in context.requests:
            self.trained.check_temperature(request.temperature, self.force)

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        standing: Tensor | None = None

        def go_on(context: Context, level: Level) -> Tensor:
            nonlocal standing
            if level.hidden is None:
                raise UnsupportedModel(
                    "SpecDec++ needs the drafter's hidden states, and this drafter offers none",
                    next_step="Use a drafter that is a model of the target's vocabulary, or control='survival'",
                )
            if standing is None:  # the first hidden state is that of a token which the target has already accepted
                standing = torch.ones_like(level.prob, dtype=torch.float32)
            else:
                held = {name: w.to(level.hidden.device) for name, w in self.trained.weights.items()}
                standing = standing * accepts(held, level.hidden)
            return (1 - standing <= self.threshold) | torch.tensor(level.depth < self.least)

        k = torch.full((context.size,), self.most, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=go_on)


__all__ = ["SpecDecPlusPlus", "accepts"]
