"""PEARL: the law under every interleaving, its yield, and what a slice sends."""

import pytest
import torch

from anydraft.core.judge import TokenJudge
from anydraft.core.ledger import Ledger
from anydraft.core.messages import Failed, Run, Verify
from anydraft.core.records import Request
from anydraft.drafters.draft_model import DraftModel
from anydraft.engine.table import TableModel
from anydraft.planning.simulate import drawn_trace, simulate
from anydraft.rules.match import Match
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.schedules.pearl import PEARL
from anydraft.testing.exact import plain_law
from anydraft.testing.interleavings import Interleavings


def request(tokens: int) -> Request:
    return Request(prompt=torch.tensor([0]), max_new_tokens=tokens, temperature=1.0)


def game(*, tokens=4, width=2, lookahead=2, replicas=1, duplicates=0, rule=None, unit=1, **planted) -> Interleavings:
    target, draft = TableModel(width, seed=1), DraftModel(TableModel(width, seed=2), width)
    rule = rule or SpeculativeSampling()
    return Interleavings(lambda ledger: PEARL(ledger, replicas, lookahead, unit=unit), target, draft, rule, request(tokens), duplicates=duplicates, **planted)


def plain(tokens=4, width=2):
    return plain_law(lambda: TableModel(width, seed=1), request(tokens))


@pytest.mark.parametrize(
    "settings", [{}, {"lookahead": 1}, {"unit": 2}, {"tokens": 3, "width": 3}, {"tokens": 3, "duplicates": 1}, {"tokens": 3, "rule": Match(), "duplicates": 1}]
)
def test_no_timing_can_change_the_law(settings):
    sizes = {key: settings[key] for key in ("tokens", "width") if key in settings}
    assert game(**settings).gap(plain(**sizes)) < 1e-9


class PublishedCoins(TokenJudge):
    """Neighbouring decisions share a coin, as in the published code: the noise of a position is its predecessor's where a slice ends."""

    def decide(self, epoch, position, rows, nodes):
        honest, last = self.noise, position + len(nodes) - 1

        class Shifted:
            def at(self, context):
                import dataclasses

                return honest.at(dataclasses.replace(context, length=context.length - int(int(context.length) == last and len(nodes) > 1)))

        self.noise = Shifted()
        try:
            return super().decide(epoch, position, rows, nodes)
        finally:
            self.noise = honest


def test_pitfall_36_the_published_coins_are_caught():
    with pytest.raises(AssertionError, match="taken twice"):
        game(judge=PublishedCoins).gap(plain())


class RowsOutliveARejection(Ledger):
    def _begin(self) -> None:
        kept = getattr(self, "rows", {})
        super()._begin()
        self.rows = {place: row for place, row in kept.items() if place >= self.position}


def test_pitfall_38_a_result_behind_a_rejection_is_caught():
    assert game(ledger=RowsOutliveARejection).gap(plain()) > 0.01


@pytest.mark.parametrize("acceptance, lookahead", [(0.8, 5), (0.6, 3), (0.9, 8)])
def test_tokens_per_slice_are_those_of_the_formula(acceptance, lookahead):
    """(1 - a^k) / ((1 - a)(1 + a - a^k)) tokens in a slice of max(k t_draft, t_target)."""
    a, k, tokens = acceptance, lookahead, 10_000
    spent = simulate("pearl", drawn_trace(tokens, a, 3), 1.0, 0.9 / k, k).total
    assert tokens / spent == pytest.approx((1 - a**k) / ((1 - a) * (1 + a - a**k)), rel=0.03)


def test_a_slice_gives_both_sides_one_task():
    class Nobody:
        def drafts(self):
            return True

    verify, run = PEARL(Ledger(Nobody(), 0, 20), 1, 3).start()
    assert isinstance(verify, Verify) and isinstance(run, Run)
    assert (verify.start, verify.drafts, run.start, run.until) == (0, (), 0, 3)


def test_a_spare_replica_takes_over():
    class Nobody:
        def drafts(self):
            return True

    made = PEARL(Ledger(Nobody(), 0, 20), 2, 3)
    verify, _ = made.start()
    (again,) = made.on(Failed(0, verify.task, "gone", "dead"))
    assert (again.worker, again.start) == (1, 0)
