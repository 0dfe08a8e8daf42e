"""What one pair of loaded models knows about its own speed: measured once, when a control first asks, and kept for later calls."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from anydraft import zoo
from anydraft.control.auto import Experience
from anydraft.core.clock import Clock
from anydraft.core.costs import Costs
from anydraft.core.errors import BadOption
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Request, Size
from anydraft.engine.fingerprint import fingerprint, pair
from anydraft.planning.profile import Profile, Rote, costs, whole_steps

PROMPT = 64  # tokens after which the costs are measured
LOOKAHEADS, ROUNDS, WARM = (0, 1, 4, 12), 3, 2  # see `whole_steps`
LIKE = 2.0  # batches of sizes closer than this have costs alike


class Pace:
    """Args:
    model, assistant_model: the user's models, of which only the weights are looked at.
    known: costs, if a plan has them already.
    text_only: there is a drafter, and nothing can be known about it.
    """

    def __init__(self, model: Any, assistant_model: Any, known: Costs | None = None, text_only: bool = False):
        self.model, self.assistant_model, self.text_only = model, assistant_model, text_only
        self.known = known
        self.measured: dict[str, dict[int, Costs]] = {}  # by method and batch size
        self._profile: Profile | None = None
        self._experience: dict[str, Experience] = {}
        self._clocks: dict[str, Clock] = {}

    def given(self, wanted: Collection[str], method: str) -> dict[str, Any]:
        """What a control's constructor takes from the house, for one method."""
        offers = {
            "costs": lambda: self.known or self.estimated,
            "measured": lambda: self.told or self.measured.get(method),
            "clock": lambda: None if self.known else self._clocks.setdefault(method, Clock()),  # a file is believed
            "experience": lambda: self._experience.setdefault(method, Experience()),
        }
        if self.assistant_model is not None:
            offers |= {"pair": lambda: self.pair, "shipped": lambda: zoo.FOLDER / "controls"}
        return {name: offer() for name, offer in offers.items() if name in wanted}

    @property
    def told(self) -> dict[int, Costs] | None:
        """The costs that a plan or a profile has, by batch size."""
        if self.known is None or self._profile is None:
            return None if self.known is None else {1: self.known}
        return {table["batch"]: self._profile.at(PROMPT, table["batch"]) for table in self._profile.tables}

    @functools.cached_property
    def estimated(self) -> Costs:
        """Costs in units of a plain step, from the models' sizes alone: the same in every run, so that a seed gives the same tokens.

        A level costs what the drafter's share of the parameters or of the layers says, whichever is more: small models are bound by the
        number of their layers. A further token costs 5 % of a step on a CPU and 1 % on an accelerator.
        """
        slope = 0.05 if self.model.device.type == "cpu" else 0.01
        verify = ((1, 1.0), (21, 1.0 + 20 * slope))
        if self.assistant_model is None:  # what copies costs nothing; of a drafter that is only heard, nothing better is known
            return Costs(draft=Costs.assumed().draft if self.text_only else 0.0, verify=verify, measured=False)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (self.assistant_model, self.model)]
        layers = [m.config.get_text_config(decoder=True).num_hidden_layers for m in (self.assistant_model, self.model)]
        return Costs(draft=max(sizes[0] / sizes[1], layers[0] / layers[1]), verify=verify, measured=False)

    @functools.cached_property
    def pair(self) -> str:
        """Which two models these are, by content."""
        return pair(self.model, self.assistant_model)

    def believe(self, profile: Profile, among: int = 1) -> None:
        """Takes costs from a file instead of measuring or estimating them. Of several drafters (`among`) it tells about the one it was made with.

        Raises:
            WrongPair: it was made with other models.
        """
        profile.check({"target": fingerprint(self.model)})
        own = None if self.assistant_model is None else fingerprint(self.assistant_model)
        if among == 1 and own is not None:
            profile.check({"drafter": own})
        if own is not None and own == profile.models.get("drafter"):
            self.known, self._profile = profile.at(PROMPT), profile

    def lacks(self, wanted: Collection[str], method: str, batch: int = 1) -> bool:
        """Whether a control that takes `wanted` would have to do without costs measured in a batch like this."""
        held = self.measured.get(method, {})
        return "measured" in wanted and self.known is None and not any(1 / LIKE < batch / size < LIKE for size in held)

    def measure(self, method: str, target: Any, drafter: Any, rule: Any, prompts: Sequence[Tensor]) -> Costs:
        """Measures the costs of a method's steps in the loop that generates, behind at most 64 ids of each prompt i64[P] of a batch.

        The parts' rows are used and must be reset afterwards.
        """
        longest = min(PROMPT, (target.max_length or 4 * PROMPT) // 4)
        room = (ROUNDS + WARM) * 2 * sum(k + 1 for k in LOOKAHEADS)
        requests = [Request(prompt=prompt[: max(1, longest - b % 8)], max_new_tokens=room) for b, prompt in enumerate(prompts)]

        def steps(drafting: Any) -> Costs:
            return whole_steps(target, drafting, rule, requests, lookaheads=LOOKAHEADS, rounds=ROUNDS, warm=WARM)

        try:
            found = steps(drafter)
        except BadOption:  # nothing to copy in this text, or no room behind it
            try:
                found = dataclasses.replace(steps(Rote()), draft=0.0, start=0.0)
            except BadOption:
                return self._noted(method, len(prompts), costs(target, drafter, requests[0].prompt, widths=(1, 3, 9, 17), repeats=3, batch=len(prompts)))
        return self._noted(method, len(prompts), dataclasses.replace(found, read=_reading(target, drafter, requests, found)))

    def _noted(self, method: str, batch: int, found: Costs) -> Costs:
        self.measured.setdefault(method, {})[batch] = found
        return found


def _reading(target: Any, drafter: Any, requests: Sequence[Request], found: Costs) -> float:
    """Seconds in which a drafter reads one token of a prompt, when it is told of it or when it first drafts; 0 for one that reads nothing."""
    if not getattr(drafter, "forwards", 0):
        return 0.0
    with torch.inference_mode():
        turned = [dataclasses.replace(request, prompt=request.prompt.flip(0)) for request in requests]  # of which nothing is cached
        context = Context.start(turned, max_length=target.max_length)
        one = torch.ones(len(requests), dtype=torch.int64)
        start = time.perf_counter()
        if hasattr(drafter, "open"):
            drafter.open(context)
        drafter.propose(context, Size(depth=one, nodes=one), Keyed().at(context))
        spent = time.perf_counter() - start - found.start - found.draft
        return max(0.0, spent) / sum(len(request.prompt) for request in requests)
