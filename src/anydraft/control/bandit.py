"""Bandit: learn by trying which arm brings most tokens per second; an arm is a length or a stopping rule.

Source:   BanditSpec, arXiv:2505.15141 (UCB and EXP3 over configurations); TapOut, arXiv:2511.02017 (stopping rules as arms)
State:    per request: plays and mean reward of every arm (UCB, discounted), or its weight (EXP3)
Cost:     a handful of scalars a step
Differs:  reward is tokens over the given costs and not the clock, so that a seed gives the same tokens in every run; EXP3 draws from a
          hash of the request's seed and step; arms that are drafters are not here, since a control does not hold one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydraft.core.costs import Costs
from anydraft.core.errors import BadOption
from anydraft.core.memory import Memory
from anydraft.core.noise import hashed
from anydraft.core.records import Context, Level, Request, Size, Step

ARMS: tuple[float, ...] = (0, 1, 2, 4, 8, 0.3, 0.6)


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


class Bandit:
    """Args:
    arms: integers are lengths, 0 included; numbers between 0 and 1 are confidence thresholds below which a draft ends.
    algorithm: ucb or exp3.
    max_assistant_tokens: where a draft of a stopping rule ends anyway.
    costs: None assumes a drafter ten times as fast as the target.
    """

    def __init__(
        self,
        arms: Sequence[float] = ARMS,
        algorithm: str = "ucb",
        max_assistant_tokens: int = 16,
        costs: Costs | None = None,
        discount: float = 0.98,
    ):
        if algorithm not in ("ucb", "exp3"):
            raise BadOption("there is no such bandit", got=algorithm, expected="ucb or exp3")
        if not arms or any(a < 0 or (a > 1 and a != int(a)) for a in arms):
            raise BadOption("a bandit's arms are not usable", got=list(arms), expected="integers >= 0 and thresholds between 0 and 1")
        self.arms, self.most, self.costs = tuple(arms), max_assistant_tokens, costs or Costs.assumed()
        self._states: Memory[_State] = Memory(lambda: _State(Arms(len(self.arms), algorithm, discount)))

    def size(self, context: Context) -> Size:
        """See `Control.size`."""
        depth, doubt = [], []
        for b, (request, step) in enumerate(zip(context.requests, context.step.tolist())):
            state = self._states.of(context, b)
            state.arm = state.learner.choose(int(hashed(request.seed, step, 0xBA7D17)[0] >> 11) * 2.0**-53)
            arm = self.arms[state.arm]
            depth.append(int(arm) if arm == int(arm) else self.most)
            doubt.append(0.0 if arm == int(arm) else float(arm))
        floor, k = torch.tensor(doubt), torch.tensor(depth, dtype=torch.int64)

        def go_on(context: Context, level: Level) -> Tensor:
            return level.prob >= floor.to(level.prob.device)

        return Size(depth=k, nodes=k, go_on=go_on)

    def keep(self, step: Step) -> None:
        """Pays the arm that was played: tokens per plain step's time, over the most that there could be."""
        drafted = step.draft.live.sum(1).tolist() if step.draft.nodes else [0] * step.before.size
        most = 1 + max([self.most] + [int(a) for a in self.arms])
        for b, nodes in enumerate(drafted):
            state = self._states.of(step.before, b)
            rate = int(step.emitted[b]) * self.costs.step(0) / self.costs.step(nodes)
            state.learner.learn(state.arm, min(1.0, rate / min(most, 4)))
        self._states.forget(step)

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


__all__ = ["Arms", "Bandit"]
