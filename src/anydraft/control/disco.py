"""DISCO: a small classifier looks at each drafted token's law and says whether to draft another.

Source:   Mamou et al. 2024, arXiv:2405.04304, section 3
State:    none per request; the classifier's weights belong to one pair and one temperature
Cost:     one top-10, one entropy and a 12 x 32 x 1 net per drafted token
Differs:  the law is the one before temperature and truncation; the file says its pair and temperature and is refused for others
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from anydraft.core.errors import BadModel
from anydraft.core.records import Context, Level, Size
from anydraft.core.trained import find

TOP = 10
FEATURES = TOP + 2


def features(level: Level) -> Tensor:
    """f[B, 12]: the ten largest probabilities, the entropy in nats, and the place in the draft, scaled to about 1."""
    log = level.logits.float().log_softmax(-1)
    probs = log.exp()
    top = probs.topk(min(TOP, probs.shape[-1]), -1).values
    top = torch.nn.functional.pad(top, (0, TOP - top.shape[-1]))
    entropy = -torch.where(probs > 0, probs * log, 0.0).sum(-1, keepdim=True)
    return torch.cat([top, entropy / 4, torch.full_like(entropy, level.depth / 8)], -1)


def classify(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """f[B]: the probability that drafting on is right, from f[B, 12]."""
    inner = (inputs @ weights["in.weight"].T + weights["in.bias"]).relu()
    return (inner @ weights["out.weight"].T + weights["out.bias"]).squeeze(-1).sigmoid()


class DISCO:
    """Args:
    weights: a file from `anydraft train disco`; None: the one bundled for this pair.
    threshold: go on above it; None: the file's, chosen there by measured time.
    max_assistant_tokens: where a draft ends anyway; None: the file's.
    shipped, pair: where bundled files are, and which models these are; the house gives both.
    force: only warn where the file belongs to another pair or temperature.
    Raises:
        BadModel: no file. WrongPair: another pair's, or a request at another temperature.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        threshold: float | None = None,
        max_assistant_tokens: int | None = None,
        shipped: Path | None = None,
        pair: str | None = None,
        force: bool = False,
    ):
        self.trained, self.force = find("disco", weights, shipped, pair), force
        self.trained.check_pair(pair, force)
        if self.trained.weights["in.weight"].shape[1] != FEATURES:
            raise BadModel("the disco file has other features", got=self.trained.weights["in.weight"].shape[1], expected=FEATURES)
        self.threshold = self.trained.settings["threshold"] if threshold is None else threshold
        self.most = int(self.trained.settings["most"] if max_assistant_tokens is None else max_assistant_tokens)

    def open(self, context: Context) -> None:
        """Refuses requests at a temperature that the classifier has not seen."""
        for request in context.requests:
            self.trained.check_temperature(request.temperature, self.force)

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        k = torch.full((context.size,), self.most, dtype=torch.int64)
        return Size(depth=k, nodes=k, go_on=self._go_on)

    def _go_on(self, context: Context, level: Level) -> Tensor:
        inputs = features(level)
        return classify({name: w.to(inputs.device) for name, w in self.trained.weights.items()}, inputs) > self.threshold


__all__ = ["DISCO", "classify", "features"]
