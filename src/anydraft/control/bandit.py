"""Bandit: learn by trying which arm brings most tokens per second; an arm is a length or a stopping rule, of one drafter or of one of several.

Source:   BanditSpec, arXiv:2505.15141 (UCB and EXP3 over configurations); TapOut, arXiv:2511.02017 (stopping rules as arms)
State:    per request: plays and mean reward of every arm (UCB, discounted), or its weight (EXP3)
Cost:     a handful of scalars a step
Differs:  reward is tokens over the given costs and not the clock, so that a seed gives the same tokens in every run; EXP3 draws from a
          hash of the request's seed and step; where there are several drafters, each is tried with each length or rule
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anydraft.core.costs import Costs, Member
from anydraft.core.errors import BadOption
from anydraft.core.memory import Memory
from anydraft.core.noise import hashed
from anydraft.core.records import Context, Level, Request, Size, Step

ARMS: tuple[float, ...] = (0, 1, 2, 4, 8, 0.3, 0.6)
SEVERAL: tuple[float, ...] = (0, 2, 4, 8)
"""Lengths tried with each of several drafters; 0 is one arm for all."""


class Arms:
    """The learner, without any decoding: give it rewards in [0, 1].

    Args:
        count: how many arms.
        algorithm: "ucb" for arms that stay as they are, "exp3" for arms that may change against us.
        discount: weight of the past for UCB; 1 forgets nothing.
    """

    def __init__(self, count: int, algorithm: str = "ucb", discount: float = 0.98, beta: float = 0.05, gamma: float = 0.1):
        self.algorithm, self.discount, self.beta, self.gamma = algorithm, discount, beta, gamma
        self.plays, self.total, self.log_weight = [0.0] * count, [0.0] * count, [0.0] * count

    def chances(self) -> list[float]:
        """EXP3's probability of each arm."""
        top = max(self.log_weight)
        weights = [math.exp(w - top) for w in self.log_weight]
        even = self.gamma / len(weights)
        return [(1 - self.gamma) * w / sum(weights) + even for w in weights]

    def choose(self, uniform: float) -> int:
        """The arm to play; `uniform` in [0, 1) is used by EXP3 only."""
        if self.algorithm == "exp3":
            for arm, chance in enumerate(self.chances()):
                uniform -= chance
                if uniform < 0:
                    return arm
            return len(self.log_weight) - 1
        untried = [arm for arm, n in enumerate(self.plays) if n == 0]
        if untried:
            return untried[0]
        spread = self.beta * math.log(1 + sum(self.plays))
        return max(range(len(self.plays)), key=lambda a: self.total[a] / self.plays[a] + math.sqrt(spread / self.plays[a]))

    def learn(self, arm: int, reward: float) -> None:
        """Takes in one play."""
        if self.algorithm == "exp3":
            self.log_weight[arm] += self.gamma * reward / (self.chances()[arm] * len(self.log_weight))
            return
        self.plays = [n * self.discount for n in self.plays]
        self.total = [t * self.discount for t in self.total]
        self.plays[arm] += 1
        self.total[arm] += reward


@dataclass(slots=True)
class _State:
    learner: Arms
    arm: int = 0
    steps: dict[int, int] = field(default_factory=dict)  # by arm
    emitted: dict[int, int] = field(default_factory=dict)


class Bandit:
    """Args:
    arms: integers are lengths, 0 included; numbers between 0 and 1 are confidence thresholds below which a draft ends. Of several drafters
        each has each arm, unless an arm names its own ("prompt_lookup=8").
    algorithm: ucb or exp3.
    max_assistant_tokens: where a draft of a stopping rule ends anyway.
    costs: None assumes a drafter ten times as fast as the target.
    members: several drafters, with costs of their own; None: there is one.
    """

    chooses = True  # it can say which of several drafters a row asks

    def __init__(
        self,
        arms: Sequence[float | str] | None = None,
        algorithm: str = "ucb",
        max_assistant_tokens: int = 16,
        costs: Costs | None = None,
        discount: float = 0.98,
        members: Sequence[Member] | None = None,
    ):
        if algorithm not in ("ucb", "exp3"):
            raise BadOption("there is no such bandit", got=algorithm, expected="ucb or exp3")
        self.members = list(members or [Member("", costs or Costs.assumed())])
        given = arms if arms is not None else ARMS if len(self.members) == 1 else SEVERAL
        self.arms = _arms([given] if isinstance(given, (str, int, float)) else given, [m.name for m in self.members])
        self.most = max_assistant_tokens
        self._states: Memory[_State] = Memory(lambda: _State(Arms(len(self.arms), algorithm, discount)))

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        depth, doubt, picks = [], [], []
        for b, (request, step) in enumerate(zip(context.requests, context.step.tolist())):
            state = self._states.of(context, b)
            state.arm = state.learner.choose(int(hashed(request.seed, step, 0xBA7D17)[0] >> 11) * 2.0**-53)
            drafter, arm = self.arms[state.arm]
            depth.append(int(arm) if arm == int(arm) else self.most)
            doubt.append(0.0 if arm == int(arm) else float(arm))
            picks.append(drafter)
        floor, k = torch.tensor(doubt), torch.tensor(depth, dtype=torch.int64)

        def go_on(context: Context, level: Level) -> Tensor:
            return level.prob >= floor.to(level.prob.device)

        return Size(depth=k, nodes=k, go_on=go_on, drafter=torch.tensor(picks) if len(self.members) > 1 else None)

    def keep(self, step: Step) -> None:
        """Pays the arm that was played: tokens per plain step's time, over the most that there could be."""
        drafted = step.draft.live.sum(1).tolist() if step.draft.nodes else [0] * step.before.size
        most = 1 + max([self.most] + [int(a) for _, a in self.arms])
        for b, nodes in enumerate(drafted):
            state = self._states.of(step.before, b)
            costs = self.members[self.arms[state.arm][0]].costs
            rate = int(step.emitted[b]) * costs.step(0) / costs.step(nodes)
            state.learner.learn(state.arm, min(1.0, rate / min(most, 4)))
            state.steps[state.arm] = state.steps.get(state.arm, 0) + 1
            state.emitted[state.arm] = state.emitted.get(state.arm, 0) + int(step.emitted[b])

    def choices(self, request: Request) -> dict[str, dict[str, Any]]:
        """Of several drafters: how many steps each was played, and the tokens that these emitted."""
        state = self._states.find(request)
        if state is None or len(self.members) == 1:
            return {}
        return {m.name: {"steps": self._total(state.steps, n), "emitted": self._total(state.emitted, n)} for n, m in enumerate(self.members)}

    def _total(self, by_arm: dict[int, int], drafter: int) -> int:
        return sum(n for arm, n in by_arm.items() if self.arms[arm][0] == drafter and self.arms[arm][1])

    def export(self, request: Request) -> dict[str, Any] | None:
        """What was learned about a request; None if nothing was."""
        state = self._states.find(request)
        return None if state is None else {name: list(getattr(state.learner, name)) for name in ("plays", "total", "log_weight")}

    def adopt(self, request: Request, held: dict[str, Any]) -> None:
        """Goes on with what `export` gave elsewhere."""
        state = self._states.fresh()
        for name in ("plays", "total", "log_weight"):
            setattr(state.learner, name, list(map(float, held[name])))
        self._states.adopt(request, state)


def _arms(given: Sequence[float | str], drafters: Sequence[str]) -> tuple[tuple[int, float], ...]:
    """(drafter, length or threshold) of each arm. Raises BadOption."""
    found: list[tuple[int, float]] = []
    for arm in given:
        name, equals, value = str(arm).rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if number < 0 or (number > 1 and number != int(number)) or (equals and name not in drafters):
            expected = "integers >= 0 and thresholds between 0 and 1" + (f", or DRAFTER=NUMBER with {', '.join(drafters)}" if len(drafters) > 1 else "")
            raise BadOption("a bandit's arms are not usable", got=repr(arm), expected=expected)
        whose = [drafters.index(name)] if equals else range(len(drafters)) if number else [0]
        found += [(drafter, number) for drafter in whose]
    if not found:
        raise BadOption("a bandit has no arms", expected="integers >= 0 and thresholds between 0 and 1")
    return tuple(dict.fromkeys(found))


__all__ = ["Arms", "Bandit"]
