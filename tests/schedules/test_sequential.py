"""Sequential: what a step records, who leaves and who joins, who is told what, and that the accounts add up."""

import dataclasses
import time

import pytest
import torch
from toys import CONTROLS, DRAFTS, EXACT, RULES, V, ask, distance, target

from anydraft.control.fixed import Fixed
from anydraft.core.errors import NonFiniteLogits
from anydraft.core.noise import Keyed
from anydraft.core.records import Context
from anydraft.core.stopping import Stopping
from anydraft.core.tree import reaches
from anydraft.drafters.draft_model import DraftModel
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.schedules.sequential import sequential


def run(requests, parts, at_once=99, max_length=None):
    stopping, waiting = {s: Stopping(r) for s, r in enumerate(requests)}, list(range(len(requests)))

    def refill(context):
        held = context.size if context is not None else 0
        new, waiting[:] = waiting[: at_once - held], waiting[at_once - held :]
        fresh = Context.start([requests[s] for s in new], new, max_length) if new else None
        context = fresh if not held else context.join(fresh) if fresh else context
        return context if context is not None and context.size else None

    return list(sequential(*parts, Keyed(), refill, stopping)), stopping


REQUESTS = [ask(n, prompt=[0, 1, 0, n % 3], seed=n, eos=frozenset({2} if n % 2 else ())) for n in (1, 2, 5, 9, 12, 13)]


@pytest.mark.parametrize("draft, rule", [("draft_model chain", "block_verification"), ("draft_model distinct", "recursive_rejection"), ("none", "match"),
                                         ("token_recycling", "match"), ("prompt_lookup", "speculative_sampling")])  # fmt: skip
@pytest.mark.parametrize("at_once", [2, 99])
def test_the_accounts_add_up(draft, rule, at_once):
    """Emitted = accepted + 1 for every row that stays open; never more for one that ends; and ids are written behind what was there."""
    steps, stopping = run(REQUESTS, (target(), DRAFTS[draft](), RULES[rule](), CONTROLS["heuristic"]()), at_once)
    written = {s: [] for s in stopping}
    for step in steps:
        before, after = step.before, step.after
        assert torch.equal(after.length, before.length + step.emitted) and torch.equal(after.committed, after.length)
        assert torch.equal(after.step, before.step + 1) and (after.length <= after.limit).all()
        for b, slot in enumerate(before.slot.tolist()):
            emitted, accepted = int(step.emitted[b]), len(step.path[b])
            assert emitted == accepted + 1 if step.finish[b] is None else 1 <= emitted <= accepted + 1
            assert accepted <= reaches(step.draft)[b]
            assert after.row(b)[: int(before.length[b])].tolist() == before.row(b).tolist(), "committed ids are append-only"
            new = after.row(b)[int(before.length[b]) :].tolist()
            drafted = [int(step.draft.tokens[b, n]) for n in step.path[b]]
            assert new[: len(drafted)] == drafted[: len(new)]
            written[slot] += new
    for slot, stop in stopping.items():
        assert written[slot] == stop.ids and stop.finish in ("stop", "length")
        assert len(stop.ids) == REQUESTS[slot].max_new_tokens if stop.finish == "length" else stop.ids[-1] == 2
        assert 2 not in stop.ids[:-1] or not REQUESTS[slot].eos


def test_finished_rows_leave_and_waiting_ones_take_their_places():
    steps, _ = run(REQUESTS, (target(), DRAFTS["draft_model chain"](), SpeculativeSampling(), Fixed(2)), 2)
    for step, following in zip(steps, steps[1:]):
        left = [s for s, end in zip(step.before.slot.tolist(), step.finish) if end is None]
        assert following.before.slot.tolist()[: len(left)] == left
    assert {slot for step in steps for slot in step.before.slot.tolist()} == set(range(len(REQUESTS)))
    assert max(step.before.size for step in steps) == 2


def test_the_target_runs_once_a_step_and_the_drafter_as_often_as_it_says():
    steps, _ = run(REQUESTS, (target(), DRAFTS["draft_model chain"](), SpeculativeSampling(), Fixed(3)))
    assert all(step.forwards == {"target": 1, "draft": step.draft.forwards} for step in steps)
    assert all(step.seconds.total > 0 for step in steps)


def test_no_lookahead_is_plain_decoding():
    drafter = DraftModel(target(2), 3)
    steps, stopping = run([ask(5), ask(3)], (target(), drafter, SpeculativeSampling(), Fixed(0)))
    assert len(steps) == 5 and drafter.forwards == 0 and [len(s.ids) for s in stopping.values()] == [5, 3]


def test_one_token_prompt_and_one_token_asked():
    steps, stopping = run([ask(1, prompt=[0]), ask(4, prompt=[2])], (target(), DRAFTS["prompt_lookup"](), RULES["match"](), Fixed(4)))
    assert [len(s.ids) for s in stopping.values()] == [1, 4]


def test_the_context_of_the_model_is_a_limit():
    steps, stopping = run([ask(50), ask(50, prompt=[0] * 7)], (target(), DRAFTS["draft_model chain"](), SpeculativeSampling(), Fixed(4)), max_length=9)
    assert [len(s.ids) for s in stopping.values()] == [7, 2] and all(s.finish == "length" for s in stopping.values())


class Listener:
    """A control that hears everything."""

    def __init__(self):
        self.heard = []

    def open(self, context):
        self.heard.append(("open", context.slot[context.step == 0].tolist()))

    def size(self, context):
        self.heard.append(("size", context.slot.tolist()))
        return Fixed(2).size(context)

    def keep(self, step):
        self.heard.append(("keep", step.before.slot.tolist()))


def test_parts_are_told_in_order():
    control = Listener()
    run([ask(2), ask(1), ask(1)], (target(), DRAFTS["draft_model chain"](), SpeculativeSampling(), control), 2)
    assert [slots for verb, slots in control.heard if verb == "open"] == [[0, 1], [2]]
    verbs = [verb for verb, _ in control.heard if verb != "open"]
    assert verbs == ["size", "keep"] * (len(verbs) // 2)


@pytest.mark.parametrize("poison", ["nan", "nothing finite"])
@pytest.mark.parametrize("at", [3, 4, 5])
def test_unusable_logits_stop_the_run_and_write_nothing(poison, at):
    """Also where only a draft node's row is spoilt; a row that no node asks for may hold anything."""
    model, fine = target(), target().logits

    def logits(ids):
        row = fine(ids).clone()
        if len(ids) >= at:
            row[:] = torch.nan if poison == "nan" else -torch.inf
        return row

    model.logits = logits
    stopping = {0: Stopping(ask(9))}
    start = Context.start([stopping[0].request])
    seen = []
    with pytest.raises(NonFiniteLogits, match="NaN or without any finite value"):
        for step in sequential(model, DRAFTS["draft_model chain"](), RULES["match"](), Fixed(1), Keyed(), lambda c: c or start, stopping):
            seen.append(step.after.row(0).tolist())
    assert start.ids[0, : 2 + len(stopping[0].ids)].tolist() == (seen[-1] if seen else [0, 1]), "no token of the spoilt step"
    assert not start.ids[0, 2 + len(stopping[0].ids) :].any()


@pytest.mark.proof
def test_the_law_is_kept_through_the_context_limit():
    def make():
        model = target()
        model.max_length = 6
        return model

    assert distance(lambda: (make(), DRAFTS["draft_model chain"](), SpeculativeSampling(), Fixed(2)), ask(50, prompt=(0, 1, 2)), make) < EXACT


def test_a_size_is_clipped_to_what_a_row_may_still_emit():
    context = Context.start([ask(1), ask(2), ask(9)])
    size = Fixed(4).size(context).clipped(context)
    assert size.depth.tolist() == [0, 1, 4] and size.nodes.tolist() == [0, 4, 4]
    assert dataclasses.replace(size, depth=torch.tensor([3, 0, 0])).clipped(context).nodes.tolist() == [0, 0, 0]


def test_a_step_holds_the_time_between_it_and_the_last_one_but_not_the_callers():
    """Learning belongs to steps, since plain decoding does without it; what a caller does with a step does not."""
    class Thinking(Fixed):
        def keep(self, step):
            time.sleep(0.02)

    stopping, start = {0: Stopping(REQUESTS[4])}, Context.start([REQUESTS[4]])
    parts = (target(), DraftModel(target(2), V), SpeculativeSampling(), Thinking(1))
    spent = []
    for step in sequential(*parts, Keyed(), lambda context: start if context is None else context if context.size else None, stopping):
        spent.append(step.seconds.other)
        time.sleep(0.1)
    assert len(spent) > 2 and all(0.02 <= s for s in spent[1:]) and sorted(spent)[1] < 0.1
