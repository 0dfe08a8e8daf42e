"""What one pair of loaded models knows about its own speed: from a file, or estimated and corrected by the steps of its calls."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from anydraft import zoo
from anydraft.control.auto import Experience
from anydraft.core.clock import Clock
from anydraft.core.costs import Costs
from anydraft.engine.fingerprint import fingerprint, pair
from anydraft.planning.profile import Profile

PROMPT = 64  # tokens of context at which a profile is asked


class Pace:
    """Args:
    model, assistant_model: the user's models, of which only the weights are looked at.
    known: costs, if a plan has them already.
    text_only: there is a drafter, and nothing can be known about it.
    """

    def __init__(self, model: Any, assistant_model: Any, known: Costs | None = None, text_only: bool = False):
        self.model, self.assistant_model, self.text_only = model, assistant_model, text_only
        self.known = known
        self._profile: Profile | None = None
        self._experience: dict[str, Experience] = {}
        self._clocks: dict[str, Clock] = {}

    def given(self, wanted: Collection[str], method: str) -> dict[str, Any]:
        """What a control's constructor takes from the house, for one method."""
        offers = {
            "costs": lambda: self.known or self.estimated,
            "measured": lambda: self.told,
            "clock": lambda: self._clocks.setdefault(method, Clock()),
            "experience": lambda: self._experience.setdefault(method, Experience()),
        }
        if self.assistant_model is not None:
            offers |= {"pair": lambda: self.pair, "shipped": lambda: zoo.FOLDER / "controls"}
        return {name: offer() for name, offer in offers.items() if name in wanted}

    @property
    def told(self) -> dict[int, Costs] | None:
        """The costs that a plan or a profile has, by batch size."""
        if self._profile is None:
            return {1: self.known} if self.known is not None else None
        return {table["batch"]: self._profile.at(PROMPT, table["batch"]) for table in self._profile.tables}

    @functools.cached_property
    def estimated(self) -> Costs:
        """Costs in units of a plain step, from the models' sizes alone: the same in every run, so that a seed gives the same tokens.

        A level costs what the drafter's share of the parameters or of the layers says, whichever is more: small models are bound by the
        number of their layers. A further token costs 5 % of a step on a CPU and 1 % on an accelerator.
        """
        slope = 0.05 if self.model.device.type == "cpu" else 0.01
        verify = ((1, 1.0), (3, 1.0 + 2 * slope), (21, 1.0 + 20 * slope))
        if self.assistant_model is None:  # what copies costs nothing; of a drafter that is only heard, nothing better is known
            return Costs(draft=Costs.assumed().draft if self.text_only else 0.0, verify=verify, measured=False)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (self.assistant_model, self.model)]
        layers = [m.config.get_text_config(decoder=True).num_hidden_layers for m in (self.assistant_model, self.model)]
        draft = max(sizes[0] / sizes[1], layers[0] / layers[1])
        return Costs(draft=draft, verify=verify, read=draft * slope, measured=False)

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
