"""This library as a contender: one method at one lookahead."""

from __future__ import annotations

from functools import partial
from typing import Any

from anydraft.bench.measure import Job, Outcome, Stopwatch
from anydraft.bench.steered import SteeredSpeculator, Steering
from anydraft.speculator import Generation, Speculator


class Ours:
    """Args:
    method: a name of drafters/, "none" for plain decoding, or "auto".
    k: `num_assistant_tokens`, or "auto".
    label: the row's name; None makes it from method and k.
    steering: forces the acceptance and marks the row's name; None leaves the drafter to itself.
    options: further keywords of `Speculator`, a schedule among them.
    """

    system = "anydraft"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        method: str,
        k: int | str = "auto",
        assistant_model: Any = None,
        assistant_tokenizer: Any = None,
        label: str | None = None,
        steering: Steering | None = None,
        **options: Any,
    ):
        self.method, self.k, self.schedule = method, k, options.get("schedule", "sequential")
        self.name = label or ("anydraft none" if method == "none" else f"anydraft {method} k={k}")
        self.forced = None if steering is None else str(steering)
        if self.forced:
            self.name += f", {self.forced}"
        self.device = model.device
        kind = Speculator if steering is None else partial(SteeredSpeculator, steering)
        self.speculator = kind(model, tokenizer, assistant_model, assistant_tokenizer, method, k, **options)

    def run(self, job: Job) -> Outcome:
        """See `Contender.run`."""
        seeds = [job.seed + n for n in range(len(job.prompts))]
        options = {"max_new_tokens": job.max_new_tokens, "temperature": job.temperature, "top_p": job.top_p if job.temperature else 1.0}
        with Stopwatch(self.device) as watch:
            made = self.speculator.generate(job.prompts, seed=seeds, **options)
        self.speculator.reset()  # every contender stays until the end of the benchmark; its cache need not
        first = max(g.metrics.timing.time_to_first_token_s or 0.0 for g in made)
        return Outcome([g.token_ids for g in made], watch.seconds, first, facts(made))


def facts(made: list[Generation]) -> dict[str, Any]:
    """Sums over a batch. Times and forwards are the batch's, so they are taken from the request that ran longest.

    `accepted_at[i]` counts steps that accepted at least i + 1 tokens, `steps` those that drafted: their quotient is what vLLM
    calls the per-position rate.
    """
    longest = max(made, key=lambda g: g.metrics.timing.total_s).metrics
    steps = [(d, a) for g in made for d, a in zip(g.metrics.per_step_drafted, g.metrics.per_step_accepted)]
    deepest = max((a for _, a in steps), default=0)
    t = longest.timing
    return {
        "steps": sum(1 for d, _ in steps if d),
        "all_steps": len(steps),
        "drafted": sum(d for d, _ in steps),
        "accepted": sum(a for _, a in steps),
        "accepted_at": [sum(1 for d, a in steps if d and a > place) for place in range(deepest)],
        "offered_at": [sum(1 for d, _ in steps if d > place) for place in range(max((d for d, _ in steps), default=0))],
        "batch_steps": len(longest.per_step_drafted),
        "accept_lengths": [a + 1 for _, a in steps],
        "target_forwards": longest.target_forwards,
        "draft_forwards": longest.draft_forwards,
        "prefill_s": t.prefill_s,
        "draft_s": t.draft_s,
        "verify_s": t.verify_s,
        "other_s": t.other_s,
        "notes": sorted({note for g in made for note in g.metrics.notes}),
        **({"schedule": longest.schedule} if longest.schedule else {}),
    }
