"""Metrics: the accounts of a request add up, and mean what the glossary says."""

import json

import pytest
from toys import CONTROLS, DRAFTS, RULES, ask, target

from anydraft.core.metrics import Metrics
from anydraft.core.noise import Keyed
from anydraft.core.records import Context
from anydraft.core.stopping import Stopping
from anydraft.schedules.sequential import sequential

REQUESTS = [ask(n, seed=n, prompt=(0, 1, 0, 1), eos=frozenset({2} if n == 11 else ())) for n in (1, 7, 11, 12)]


PAIRS = [("draft_model chain", "speculative_sampling"), ("draft_model distinct", "recursive_rejection"), ("none", "match"), ("prompt_lookup", "match")]


@pytest.fixture(params=PAIRS)
def counted(request):
    draft, rule = request.param
    start, stopping = Context.start(REQUESTS), {s: Stopping(r) for s, r in enumerate(REQUESTS)}
    metrics = [Metrics(method=draft) for _ in REQUESTS]
    parts = (target(), DRAFTS[draft](), RULES[rule](), CONTROLS["heuristic"]())
    refill = lambda context: start if context is None else context if context.size else None  # noqa: E731
    wall, steps = 0.0, []
    for step in sequential(*parts, Keyed(), refill, stopping):
        wall += step.seconds.total
        steps.append(step)
        for b, slot in enumerate(step.before.slot.tolist()):
            metrics[slot].add(step, b, int(step.draft.live[b].sum()) if step.draft.nodes else 0, wall)
    return draft, metrics, stopping, steps


def test_emitted_is_accepted_plus_one_a_step_but_for_the_last(counted):
    _, metrics, stopping, _ = counted
    for slot, m in enumerate(metrics):
        steps = len(m.per_step_accepted)
        assert m.num_emitted_tokens == len(stopping[slot].ids)
        missing = m.num_accepted_draft_tokens + steps - m.num_emitted_tokens
        assert missing in (0, 1), "a step that ends inside its draft has no token of the target's"
        assert m.num_accepted_draft_tokens <= m.num_draft_tokens and m.target_forwards == steps


def test_ratios_are_what_the_glossary_says(counted):
    draft, metrics, _, steps = counted
    for slot, m in enumerate(metrics):
        drafting = [(d, a) for d, a in zip(m.per_step_drafted, m.per_step_accepted) if d]
        assert m.num_spec_steps == len(drafting)
        if drafting:
            assert m.mean_acceptance_length == pytest.approx(1 + sum(a for _, a in drafting) / len(drafting))
            assert m.draft_acceptance_rate == pytest.approx(sum(a for _, a in drafting) / sum(d for d, _ in drafting))
        else:
            assert (m.mean_acceptance_length, m.draft_acceptance_rate) == (1.0, 0.0)
        if draft == "none":
            assert m.num_draft_tokens == m.draft_forwards == 0
        assert m.batch_size == max(step.before.size for step in steps if slot in step.before.slot.tolist())


def test_the_plain_form_is_json_and_its_histograms_count_every_drafting_step(counted):
    for m in counted[1]:
        plain = json.loads(json.dumps(m.as_dict()))
        spec = plain["speculative_decoding"]
        assert sum(spec["acceptance_histogram"]) == spec["num_spec_steps"]
        assert sum(n * count for n, count in enumerate(spec["acceptance_histogram"])) == spec["num_accepted_draft_tokens"]
        by_length = spec["acceptance_histogram_by_draft_length"]
        assert sum(int(length) * sum(counts) for length, counts in by_length.items()) == spec["num_draft_tokens"]
        assert spec["num_spec_tokens"] == max(spec["per_step_drafted"], default=0)


def test_time_adds_up(counted):
    for m in counted[1]:
        t = m.timing
        assert t.prefill_s + t.draft_s + t.verify_s + t.other_s == pytest.approx(t.total_s, rel=1e-6)
        assert t.tokens_per_s == pytest.approx(m.num_emitted_tokens / t.total_s) and 0 < t.time_to_first_token_s <= t.total_s
