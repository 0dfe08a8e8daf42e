"""What a request's decoding did, counted from its steps under the names that vLLM gives these numbers.

Source: vLLM's per-request object `metrics.speculative_decoding`. mean acceptance length = 1 + accepted / steps that drafted (the target's own
token included); acceptance rate = accepted / drafted. `num_draft_tokens` counts scored nodes, so a tree of 24 nodes drafts 24.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from anydraft.core.records import Seconds, Step


@dataclass(slots=True)
class Timing:
    """Seconds of the batch in which a request ran, from its admission to its end; a batch shares its time."""

    prefill_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    other_s: float = 0.0
    total_s: float = 0.0
    tokens_per_s: float = 0.0
    time_to_first_token_s: float | None = None


@dataclass(slots=True)
class Metrics:
    """The decoding of one request."""

    method: str = "none"
    reason: str = ""  # why this method, if `auto` chose it
    per_step_drafted: list[int] = field(default_factory=list)
    per_step_accepted: list[int] = field(default_factory=list)
    num_emitted_tokens: int = 0
    target_forwards: int = 0
    draft_forwards: int = 0
    batch_size: int = 0
    notes: list[str] = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)
    drafters: dict[str, dict[str, Any]] = field(default_factory=dict)  # of several: how often each was chosen, and what it brought
    schedule: dict[str, Any] = field(default_factory=dict)  # what a parallel schedule spent on the whole call

    def add(self, step: Step, b: int, drafted: int, wall: float) -> None:
        """Counts row b of a step that drafted `drafted` nodes for it and ended `wall` seconds after the request's admission."""
        emitted = int(step.emitted[b])
        self.per_step_drafted.append(drafted)
        self.per_step_accepted.append(min(len(step.path[b]), emitted))
        self.num_emitted_tokens += emitted
        self.target_forwards += step.forwards.get("target", 0)
        self.draft_forwards += step.forwards.get("draft", 0)
        self.batch_size = max(self.batch_size, step.before.size)
        self._time(step.seconds, wall)

    def _time(self, seconds: Seconds, wall: float) -> None:
        t = self.timing
        t.prefill_s += seconds.prefill
        t.draft_s += seconds.draft
        t.verify_s += seconds.verify
        t.total_s = wall
        t.other_s = max(0.0, wall - t.prefill_s - t.draft_s - t.verify_s)
        t.tokens_per_s = self.num_emitted_tokens / wall if wall > 0 else 0.0
        if t.time_to_first_token_s is None:
            t.time_to_first_token_s = wall

    @property
    def num_spec_steps(self) -> int:
        """Steps that drafted something for this request."""
        return sum(1 for drafted in self.per_step_drafted if drafted)

    @property
    def num_draft_tokens(self) -> int:
        """Draft nodes that the target scored."""
        return sum(self.per_step_drafted)

    @property
    def num_accepted_draft_tokens(self) -> int:
        """Draft tokens that became output."""
        return sum(self.per_step_accepted)

    @property
    def mean_acceptance_length(self) -> float:
        """1 + accepted tokens per step that drafted; 1 where nothing was drafted."""
        return 1.0 + self.num_accepted_draft_tokens / max(1, self.num_spec_steps)

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted over drafted, 0 where nothing was drafted."""
        return self.num_accepted_draft_tokens / max(1, self.num_draft_tokens)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON: `speculative_decoding`, `timing`, and what else is known."""
        drafting = [(d, a) for d, a in zip(self.per_step_drafted, self.per_step_accepted) if d]
        most = max((d for d, _ in drafting), default=0)
        lengths = Counter(a for _, a in drafting)
        by_length = {d: Counter(a for n, a in drafting if n == d) for d in sorted({d for d, _ in drafting})}
        timing = {name: getattr(self.timing, name) for name in Timing.__dataclass_fields__}
        return {
            "speculative_decoding": {
                "mean_acceptance_length": self.mean_acceptance_length,
                "draft_acceptance_rate": self.draft_acceptance_rate,
                "acceptance_histogram": [lengths[n] for n in range(max(lengths, default=-1) + 1)],
                "acceptance_histogram_by_draft_length": {str(d): [c[n] for n in range(max(c) + 1)] for d, c in by_length.items()},
                "num_spec_steps": self.num_spec_steps,
                "num_accepted_draft_tokens": self.num_accepted_draft_tokens,
                "num_draft_tokens": self.num_draft_tokens,
                "num_spec_tokens": most,
                "per_step_accepted": list(self.per_step_accepted),
                "per_step_drafted": list(self.per_step_drafted),
            },
            "timing": timing,
            "method": self.method,
            "reason": self.reason,
            "num_target_forwards": self.target_forwards,
            "num_draft_forwards": self.draft_forwards,
            "batch_size": self.batch_size,
            "notes": list(self.notes),
            **({"drafters": self.drafters} if self.drafters else {}),
            **({"schedule": self.schedule} if self.schedule else {}),
        }
