"""Puts a Speculator's models on workers and runs a parallel schedule there; for the sequential schedule there is nothing to put."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from anydraft.core import discover
from anydraft.core.errors import BadOption
from anydraft.core.records import Step
from anydraft.parallel.drive import Parallel, check, latencies
from anydraft.planning.simulate import lookahead_for, replicas_needed
from anydraft.schedules.sequential import sequential

EXECUTORS = ("threads", "processes", "ray")
COPIED = 10  # k for a drafter without a model, whose drafts cost nothing


def schedule_for(owner: Any, schedule: str, target_replicas: int, executor: str, ray_address: str | None) -> Callable[..., Iterator[Step]]:
    """What runs a Speculator's steps: the sequential schedule, or a `Deployment`.

    Raises:
        UnknownMethod: no such schedule. BadOption: options that do not fit it.
    """
    made = discover.load("schedules", schedule)
    if made is sequential:
        if target_replicas != 1 or executor != "threads" or ray_address is not None:
            raise BadOption("target_replicas, executor and ray_address are for a parallel schedule", next_step="Add schedule='dsi' or 'pearl'")
        return sequential
    if executor not in EXECUTORS:
        raise BadOption("there is no such executor", got=executor, expected=", ".join(EXECUTORS))
    if isinstance(target_replicas, bool) or not isinstance(target_replicas, int) or target_replicas < 1:
        raise BadOption("target_replicas is not usable", got=repr(target_replicas), expected="an integer >= 1")
    if ray_address is not None and executor != "ray":
        raise BadOption("ray_address is for executor='ray'", got=f"executor={executor!r}")
    if executor == "ray":
        try:
            import ray  # noqa: F401
        except ImportError:
            raise BadOption("executor 'ray' needs Ray", next_step="pip install 'anydraft[ray]'") from None
    return Deployment(owner, made, target_replicas, executor, ray_address)


class Deployment:
    """Workers of one Speculator, made at the first request and kept until `close`."""

    def __init__(self, owner: Any, coordinator: Any, replicas: int, executor: str, ray_address: str | None):
        self.owner, self.coordinator, self.replicas, self.kind, self.ray_address = owner, coordinator, replicas, executor, ray_address
        self.told: list[str] = []
        self._parallel: Parallel | None = None
        self._method = ""
        self._k = 0

    def __call__(self, target: Any, drafter: Any, rule: Any, control: Any, noise: Any, refill: Any, stopping: Any) -> Iterator[Step]:
        """See `sequential`. Ctrl-C ends every worker."""
        check(rule, drafter)
        first = refill(None)
        if self._k == 0 and first is not None:
            self._k = self._lookahead(target, drafter, first.requests[0].prompt)
        if self._parallel is None or self._method != self.owner.parts_method:
            self.close()
            self._method = self.owner.parts_method
            self._parallel = Parallel(self.coordinator, self._executor(), self._k)
        try:
            yield from self._parallel(target, drafter, rule, control, noise, lambda context: first if context is None else refill(context), stopping)
        except KeyboardInterrupt:
            self.close()
            raise

    def _lookahead(self, target: Any, drafter: Any, prompt: Any) -> int:
        asked = self.owner.num_assistant_tokens
        model = getattr(drafter, "model", None)
        measured = latencies(target, model, prompt) if hasattr(model, "next") and tuple(drafter.kinds) == ("independent",) else None
        if measured is None:
            return asked if isinstance(asked, int) else COPIED
        t, d = measured
        pearl = self.coordinator.name == "pearl"
        k = asked if isinstance(asked, int) else math.ceil(t / d) if pearl else lookahead_for(t, d, self.replicas)
        self.told = [f"{self.coordinator.name} with k {k}: measured {1e3 * t:.2f} ms per target forward, {1e3 * d:.2f} ms per draft"]
        if d > t:
            warnings.warn("the drafter is slower than the target: plain decoding would be faster", stacklevel=2)
        elif not pearl and (needed := replicas_needed(t, d, k)) > self.replicas:
            self.told.append(f"{needed} replicas are needed at this k to be never slower than plain decoding")
            if isinstance(asked, int):
                warnings.warn(f"DSI with k {k} wants {needed} target replicas, got {self.replicas}", stacklevel=2)
        return max(1, k)

    def builders(self) -> tuple[list[Callable[[], Any]], Callable[[], Any]]:
        """What makes the replicas, and what makes the drafter, to be called where the workers run."""
        owner = self.owner
        own = owner.target.device
        cards = torch.cuda.device_count() if own.type == "cuda" and self.kind != "ray" and not hasattr(owner.model, "hf_device_map") else 0
        *places, last = placed(own, cards, self.replicas)
        targets = [partial(build_target, owner.model, place) for place in places]
        drafter = partial(build_drafter, owner.model, owner.tokenizer, owner.assistant_model, owner.assistant_tokenizer, self._method, owner.options, last)
        return targets, drafter

    def _executor(self) -> Any:
        targets, drafter = self.builders()
        own = self.owner.target.device
        if self.kind == "threads":
            from anydraft.parallel.threads import Threads

            return Threads(targets, drafter)
        if self.kind == "processes":
            from anydraft.parallel.processes import Processes

            there = {own.type, *(p.device.type for p in getattr(self.owner.assistant_model, "parameters", list)())}
            return Processes(targets, drafter, by_host=there != {"cpu"})
        from anydraft.parallel.rays import Rays

        gpus = 1.0 if own.type == "cuda" else 0.0
        return Rays([targets[0]] * self.replicas, drafter, address=self.ray_address, gpus=gpus)

    def report(self) -> dict[str, Any]:
        """What the last call spent and wasted, ready for JSON."""
        if self._parallel is None:
            return {}
        return {"schedule": self.coordinator.name, "executor": self.kind, "k": self._k, "notes": list(self.told)} | self._parallel.spent.as_dict(self.replicas)

    @property
    def executor(self) -> Any:
        """Where the workers are; None while there are none."""
        return None if self._parallel is None else self._parallel.executor

    def close(self) -> None:
        """Ends the workers; the next call makes new ones."""
        if self._parallel is not None:
            self._parallel.executor.close()
            self._parallel = None

    def __del__(self):
        try:
            self.close()
        except Exception:  # noqa: BLE001 - at the interpreter's end anything may be gone already
            pass


def placed(own: torch.device, cards: int, replicas: int) -> list[torch.device | None]:
    """Devices of the replicas and, last, of the drafter: one card after another from the target's own on. None: where the model is.

    >>> [str(place) for place in placed(torch.device("cuda", 1), 3, 2)]
    ['None', 'cuda:2', 'cuda:0']
    """
    if cards < 2:
        return [None] * (replicas + 1)
    first = own.index or 0
    return [torch.device("cuda", n) if n != first else None for n in ((first + i) % cards for i in range(replicas + 1))]


def build_target(model: Any, place: torch.device | None = None) -> Any:
    """A replica: its own cache around the same weights, or around a copy of them on another device."""
    from anydraft.engine.transformers import TransformersModel

    return TransformersModel(_there(model, place))


def build_drafter(
    model: Any, tokenizer: Any, assistant_model: Any, assistant_tokenizer: Any, method: str, options: dict[str, Any], place: torch.device | None = None
) -> Any:
    """The drafter as a Speculator would make it, with engines of its own."""
    from anydraft.speculator import Speculator

    return Speculator(model, tokenizer, _there(assistant_model, place), assistant_tokenizer, method, **options).parts(False).drafter


def _there(model: Any, place: torch.device | None) -> Any:
    """The model, copied if it has to be elsewhere; the user's own stays where it is."""
    return model if place is None or not hasattr(model, "to") else copy.deepcopy(model).to(place)
