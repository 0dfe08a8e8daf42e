"""DSI: the law under every interleaving, the planted bugs that this must catch, and the shape of what it sends."""

import dataclasses

import pytest
import torch

from anydraft.core.judge import TokenJudge
from anydraft.core.ledger import Ledger, Outcome
from anydraft.core.messages import Cancel, Cancelled, Drafted, Failed, Node, Run, Scored, Verify
from anydraft.core.records import Request
from anydraft.drafters.draft_model import DraftModel
from anydraft.engine.table import TableModel
from anydraft.rules.match import Match
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.schedules.dsi import DSI
from anydraft.testing.exact import KeyedTwice, plain_law
from anydraft.testing.interleavings import Interleavings

EXACT = 1e-9


def request(tokens: int, **options) -> Request:
    return Request(prompt=torch.tensor([0]), max_new_tokens=tokens, temperature=1.0, **options)


def game(*, tokens=3, width=2, lookahead=1, replicas=2, duplicates=0, rule=None, ask=None, unit=1, drafting=lambda d: d, **planted) -> Interleavings:
    target, draft = TableModel(width, seed=1), drafting(DraftModel(TableModel(width, seed=2), width))
    return Interleavings(
        lambda ledger: DSI(ledger, replicas, lookahead, unit=unit),
        target,
        draft,
        rule or SpeculativeSampling(),
        ask or request(tokens),
        duplicates=duplicates,
        **planted,
    )


def plain(tokens=3, width=2, ask=None):
    return plain_law(lambda: TableModel(width, seed=1), ask or request(tokens))


@pytest.mark.parametrize(
    "settings",
    [
        {"replicas": 1},
        {"tokens": 4, "lookahead": 2, "replicas": 1},
        {"width": 3},
        {"replicas": 3},
        {"duplicates": 1},
        {"rule": Match()},
        {"lookahead": 2, "unit": 2},
    ],
)
def test_no_timing_can_change_the_law(settings):
    """Completion orders, cancels that come too late, duplicates and delays, up to three tasks in flight, chosen by whoever likes."""
    solved = game(**settings)
    sizes = {key: settings[key] for key in ("tokens", "width") if key in settings}
    assert solved.gap(plain(**sizes)) < EXACT
    assert solved.states > 10


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"tokens": 4}, {"tokens": 4, "lookahead": 2}, {"width": 3, "duplicates": 1}])
def test_no_timing_can_change_the_law_of_longer_texts(settings):
    solved = game(**settings)
    sizes = {key: settings[key] for key in ("tokens", "width") if key in settings}
    assert solved.gap(plain(**sizes)) < EXACT
    assert solved.most_in_flight == 3


def test_an_end_of_text_inside_a_block_ends_the_text():
    ask = request(3, eos=frozenset({1}))
    assert game(ask=ask).gap(plain(ask=ask)) < EXACT


def test_a_grammar_that_looks_at_the_prefix_sees_decided_prefixes_only():
    ask = request(3, repetition_penalty=1.7, min_new_tokens=2, eos=frozenset({1}))
    assert game(ask=ask).gap(plain(ask=ask)) < EXACT


# -- planted bugs: each is one that has been made somewhere ---------------------------------------------------------------


class StaleEpochApplied(Ledger):
    """Trusts that cancelled work never answers."""

    def current(self, epoch: int) -> bool:
        return self.open


class RowsOutliveARejection(Ledger):
    """Applies a result although a draft in front of it was refused."""

    def _begin(self) -> None:
        kept = getattr(self, "rows", {})
        super()._begin()
        self.rows = {place: row for place, row in kept.items() if place >= self.position}


class WhoeverComesFirst(Ledger):
    """Draws a position from its row when the draft is late: the bonus row of one block races the first row of the next."""

    def advance(self) -> Outcome | None:
        if self.position in self.rows and self.position not in self.nodes:
            self.end = self.position
        return super().advance()


class OneCoin(TokenJudge):
    """Tosses one coin for two neighbouring positions, as the code published with PEARL does."""

    def decide(self, epoch, position, rows, nodes):
        tossed = self.noise
        first = dataclasses.replace(self.context, step=torch.tensor([epoch]))

        class Same:
            def at(self, context):
                return tossed.at(first)

        self.noise = Same()
        try:
            return super().decide(epoch, position, rows, nodes)
        finally:
            self.noise = tossed


class DraftAndTestShareACoin(TokenJudge):
    """Judges a draft by the very number that it was drawn with."""

    def decide(self, epoch, position, rows, nodes):
        honest = self.noise

        class Shared:
            def at(self, context):
                noise = honest.at(context)
                tossed = noise.bernoulli
                noise.bernoulli = lambda prob, asked, purpose, number: tossed(prob, asked, "draft", number)
                return noise

        self.noise = Shared()
        try:
            return super().decide(epoch, position, rows, nodes)
        finally:
            self.noise = honest


class EveryRowDecides(Ledger):
    """Lets each replica decide the positions that it has rows for: what two of them cover is decided twice."""

    def add_rows(self, epoch, start, rows):
        for place in range(start, min(self.position, start + len(rows))) if self.current(epoch) else ():
            self.judge.decide(epoch, place, [rows[place - start]], [None])
        return super().add_rows(epoch, start, rows)


class NoEpochInTheKey:
    """A drafter that draws a position again under the number that its first draft came from."""

    def __init__(self, inner: DraftModel):
        self.inner, self.kinds, self.chain = inner, inner.kinds, True

    def propose(self, context, size, noise):
        noise.stamps = [(0, length) for _, length in noise.stamps]
        return self.inner.propose(context, size, noise)


def worst(**planted) -> float:
    return game(**planted).gap(plain())


def test_pitfall_38_a_stale_epoch_is_caught():
    assert worst(ledger=StaleEpochApplied) > 0.01


def test_pitfall_38_a_result_behind_a_rejection_is_caught():
    assert worst(ledger=RowsOutliveARejection) > 0.01


def test_pitfall_36_a_race_for_a_position_is_caught():
    assert worst(ledger=WhoeverComesFirst) > 1e-3


def test_pitfall_36_one_coin_for_two_decisions_is_caught():
    with pytest.raises(KeyedTwice):
        worst(judge=OneCoin)


def test_pitfall_36_one_number_for_drawing_and_judging_is_caught():
    with pytest.raises(KeyedTwice):
        worst(judge=DraftAndTestShareACoin)


def test_pitfall_36_a_position_that_two_replicas_decide_is_caught():
    assert worst(ledger=EveryRowDecides) > 0.01


def test_pitfall_36_a_draft_drawn_again_under_its_old_number_is_caught():
    with pytest.raises(KeyedTwice):
        worst(drafting=NoEpochInTheKey)


def test_the_plants_fail_for_what_they_do():
    """The same classes without their mistake pass."""

    class SameLedger(Ledger):
        pass

    class SameJudge(TokenJudge):
        pass

    assert worst(ledger=SameLedger, judge=SameJudge) < EXACT


# -- what it sends -----------------------------------------------------------------------------------------------------------


class Trace:
    """Accepts every draft but those at the given positions."""

    def __init__(self, limit: int, refused: tuple[int, ...] = (), allowed: bool = True):
        self.limit, self.refused, self.allowed = limit, refused, allowed

    def drafts(self) -> bool:
        return self.allowed

    def decide(self, epoch, position, rows, nodes):
        tokens, turned = [], False
        for place, node in enumerate(nodes, position):
            turned = node is None or place in self.refused
            tokens.append(0 if turned else node.token)
            if turned:
                break
        ended = position + len(tokens) >= self.limit
        return Outcome(tokens, turned, "length" if ended else None)


def coordinator(limit=20, replicas=3, lookahead=2, **trace) -> DSI:
    return DSI(Ledger(Trace(limit, **trace), 0, limit), replicas, lookahead)


def kinds(commands):
    return [type(c).__name__ for c in commands]


def draft(run: Run, place: int, token: int = 7) -> Drafted:
    return Drafted(run.task, run.epoch, place, (Node(token),))


def scored(order: Verify) -> Scored:
    return Scored(order.task, order.worker, order.epoch, order.start, (None,) * (1 + len(order.drafts)))


def test_an_epoch_begins_with_a_verification_of_nothing_and_a_run():
    run, verify = coordinator().start()
    assert (verify.start, verify.drafts, run.start, run.until) == (0, (), 0, 19)


def test_every_kth_draft_sends_a_block():
    made = coordinator()
    run, _ = made.start()
    assert made.on(draft(run, 0)) == []
    (block,) = made.on(draft(run, 1))
    assert (block.start, block.drafts, block.behind) == (0, (7, 7), ())
    made.on(draft(run, 2))
    (block,) = made.on(draft(run, 3))
    assert (block.start, block.drafts, block.behind) == (2, (7, 7), (7, 7))


def test_the_last_row_of_a_block_judges_the_next_blocks_first_draft():
    made = coordinator(refused=(2,))
    run, nothing = made.start()
    made.on(draft(run, 0))
    (block,) = made.on(draft(run, 1))
    made.on(draft(run, 2))
    made.on(scored(nothing))
    commands = made.on(scored(block))
    assert made.ledger.position == 3 and made.ledger.epoch == 1
    assert kinds(commands)[-2:] == ["Run", "Verify"] and commands[-2].start == 3


def test_a_rejection_cancels_what_stood_on_it_and_nothing_is_sent_to_a_busy_replica():
    made = coordinator(replicas=2, refused=(0,))
    run, nothing = made.start()
    made.on(draft(run, 0))
    (block,) = made.on(draft(run, 1))
    commands = made.on(scored(nothing))
    assert [(c.task, c.worker) for c in commands if isinstance(c, Cancel)] == [(block.task, block.worker), (run.task, -1)]
    verify = next(c for c in commands if isinstance(c, Verify))
    assert verify.worker == nothing.worker and verify.epoch == 1
    assert made.on(scored(block)) == [] and made.tally.stale_answers == 1  # late: dropped by its epoch, but its replica is free now
    assert made.crew.idle() == block.worker


def test_a_second_answer_does_not_free_a_replica_that_has_new_work():
    made = coordinator(replicas=1, refused=(0,))
    run, nothing = made.start()
    made.on(draft(run, 0))
    (again,) = [c for c in made.on(scored(nothing)) if isinstance(c, Verify)]
    assert made.on(scored(nothing)) == []
    assert made.crew.idle() is None and made.crew.jobs[0].task == again.task


def test_a_replica_that_fails_is_replaced_at_once_and_given_up_after_three_times():
    made = coordinator(replicas=2)
    _, verify = made.start()
    for _ in range(3):
        (again,) = [c for c in made.on(Failed(verify.worker, verify.task, "raised", "free")) if isinstance(c, Verify)]
        assert (again.start, again.drafts) == (verify.start, verify.drafts)
        verify = again
    assert made.crew.down == {0} and not made.crew.starved
    made.on(Failed(1, verify.task, "gone", "dead"))
    assert made.crew.starved


def test_a_silent_replica_is_used_again_once_it_answers():
    made = coordinator(replicas=1)
    _, verify = made.start()
    assert made.on(Failed(0, verify.task, "no answer", "silent")) == []
    assert made.crew.starved
    made.on(Cancelled(verify.task, 0))
    assert not made.crew.starved


def test_without_its_drafter_it_decodes_plainly():
    made = coordinator(limit=4)
    run, verify = made.start()
    made.on(draft(run, 0))
    waiting = [verify, *made.on(Failed(-1, run.task, "died", "dead"))]
    for _ in range(4):
        commands = made.on(scored(waiting.pop(0)))
        assert "Run" not in kinds(commands)
        waiting += [c for c in commands if isinstance(c, Verify)]
    assert made.done and made.ledger.tokens[0] == 7  # the draft that had come was still judged


def test_rows_that_must_not_speculate_do_not():
    commands = coordinator(allowed=False).start()
    assert kinds(commands) == ["Verify"]


def test_an_empty_draw_ends_the_epochs_drafting():
    made = coordinator(lookahead=3, refused=(1,))
    run, _ = made.start()
    made.on(draft(run, 0))
    (block,) = made.on(Drafted(run.task, run.epoch, 1, (Node(-1),), last=True))
    assert block.drafts == (7,)
    commands = made.on(scored(block))
    assert made.ledger.tokens == [7, 0] and "Run" in kinds(commands)
