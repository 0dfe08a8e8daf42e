"""One call of `generate` or `stream`, and what it gives: texts, pieces of texts, log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anydraft.core.metrics import Metrics
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Request, Step
from anydraft.core.stopping import Stopping

if TYPE_CHECKING:
    from anydraft.speculator import Speculator


@dataclass(slots=True)
class Generation:
    """One finished text."""

    text: str
    token_ids: list[int]  # generated only; the token that completed a stop string and the eos token are kept
    prompt_token_ids: list[int]
    finish_reason: str | None  # "stop", "length", or "interrupted"
    metrics: Metrics
    stop_reason: str | int | None = None  # the stop string or the id that ended the text
    logprobs: list[TokenLogprobs] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; `metrics` in vLLM's shape."""
        names = ("text", "token_ids", "prompt_token_ids", "finish_reason", "stop_reason")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.logprobs is not None:
            plain["logprobs"] = [{"token_id": t.token_id, "logprob": t.logprob, "top": [list(p) for p in t.top]} for t in self.logprobs]
        return plain | {"metrics": self.metrics.as_dict()}


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's log-probability under the target before any processor, and the most likely alternatives (id, logprob)."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to one request."""

    request: int
    text: str  # text that became certain; a possible beginning of a stop string is held back
    token_ids: list[int]
    proposers: list[str]  # of each token: the drafter's name, or "target"
    finish_reason: str | None


@dataclass(slots=True)
class _Logprobs:
    per_request: dict[int, list[TokenLogprobs]] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """Log-probabilities of what a step emitted, from the logits before any processor."""
        for b, (slot, request) in enumerate(zip(step.before.slot.tolist(), step.before.requests)):
            if request.logprobs is None:
                continue
            rows = ([0] + [node + 1 for node in step.path[b]])[: int(step.emitted[b])]
            start = int(step.before.length[b])
            tokens = step.after.ids[b, start : start + len(rows)]
            laws = step.scores.logits[b, rows].float().log_softmax(-1).cpu()
            best = laws.topk(min(request.logprobs, laws.shape[-1]), -1)
            for row, token in enumerate(tokens.tolist()):
                top = list(zip(best.indices[row].tolist(), best.values[row].tolist()))
                self.per_request.setdefault(slot, []).append(TokenLogprobs(token, float(laws[row, token]), top))


class Run:
    """One call of `generate` or `stream`."""

    def __init__(self, owner: Speculator, requests: list[Request], many: bool, stream: bool):
        self.owner, self.requests, self.many = owner, requests, many
        self.parts = owner.parts(any(r.temperature > 0 for r in requests))
        owner.reset()
        decode = owner.decode if owner.tokenizer is not None else None
        self.stopping = {s: Stopping(r, decode, incremental=stream or bool(r.stop_strings)) for s, r in enumerate(requests)}
        self.metrics = {s: Metrics(method=self.parts.method, reason=self.parts.reason) for s in range(len(requests))}
        self.logprobs = _Logprobs()
        self._waiting = list(range(len(requests)))
        self._admitted: dict[int, float] = {}

    def steps(self) -> Iterator[Step]:
        p, target = self.parts, self.owner.target
        for step in self.owner.schedule(target, p.drafter, p.rule, p.control, Keyed(), self._refill, self.stopping):
            self.logprobs.add(step)
            now = time.perf_counter()
            drafted = step.draft.live.sum(1).tolist() if step.draft.nodes else [0] * step.before.size
            for b, slot in enumerate(step.before.slot.tolist()):
                self.metrics[slot].add(step, b, drafted[b], now - self._admitted[slot])
            yield step

    def _refill(self, context: Context | None) -> Context | None:
        held = context.size if context is not None else 0
        most = self.owner.max_batch_size or len(self.requests)
        new, self._waiting = self._waiting[: most - held], self._waiting[most - held :]
        if new:
            fresh = Context.start([self.requests[s] for s in new], new, self.owner.target.max_length)
            context = fresh if context is None or not context.size else context.join(fresh)
            self._admitted |= dict.fromkeys(new, time.perf_counter())
        return context if context is not None and context.size else None

    def pieces(self, step: Step) -> Iterator[Piece]:
        sources = step.draft.source.tolist() if step.draft.source is not None else None
        names = [name or self.parts.method for name in step.draft.proposer]
        for b, slot in enumerate(step.before.slot.tolist()):
            emitted, start = int(step.emitted[b]), int(step.before.length[b])
            tokens = step.after.ids[b, start : start + emitted].tolist()
            makers = [names[sources[b][n]] if sources else names[0] for n in step.path[b]] + ["target"]
            yield Piece(slot, self.stopping[slot].fresh_text(), tokens, makers[:emitted], step.finish[b])

    def interrupt(self) -> None:
        self.owner.close()
        for stopping in self.stopping.values():
            if stopping.finish is None:
                stopping.finish = "interrupted"

    def generations(self) -> list[Generation]:
        spent = getattr(self.owner.schedule, "report", dict)()
        for metrics in self.metrics.values() if spent else ():
            metrics.schedule = spent
        tell, explain = getattr(self.parts.control, "report", None), getattr(self.parts.drafter, "reason", None)
        chosen = getattr(self.parts.control, "choices", None)
        for slot, metrics in self.metrics.items():
            if tell is not None:
                metrics.notes = tell(self.requests[slot])
            metrics.drafters = chosen(self.requests[slot]) if chosen is not None else {}
            if metrics.drafters:
                metrics.method = max(metrics.drafters, key=lambda name: metrics.drafters[name]["steps"])
                counts = ", ".join(f"{name} {held['steps']} ({held['emitted']} tokens)" for name, held in metrics.drafters.items())
                metrics.reason = f"{metrics.reason}; chosen step by step, steps drafted: {counts}"
            if explain is not None:
                metrics.method, measured = explain(slot)
                metrics.reason = f"{metrics.reason}; {measured}"
        return [
            Generation(
                text=end.text,
                token_ids=end.ids,
                prompt_token_ids=request.prompt.tolist(),
                finish_reason=end.finish,
                metrics=self.metrics[slot],
                stop_reason=end.stop_reason,
                logprobs=self.logprobs.per_request.get(slot, []) if request.logprobs is not None else None,
            )
            for slot, (request, end) in enumerate(zip(self.requests, self.stopping.values()))
        ]
