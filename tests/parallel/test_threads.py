"""Threads: the same tokens as the sequential schedule or as plain decoding, whatever breaks, and never a hang."""

import os
import random
import threading
import time
import warnings

import pytest
from parts import Echoing, Faulty, Injected, decode, plain, request, table_drafter, table_target

from anydraft.core.errors import WrongPair
from anydraft.drafters.draft_model import DraftModel
from anydraft.parallel.drive import Parallel
from anydraft.parallel.threads import Threads
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.match import Match
from anydraft.schedules.dsi import DSI
from anydraft.schedules.pearl import PEARL


def run(schedule=DSI, targets=None, drafter=table_drafter, requests=None, rule=None, lookahead=2, patience=0.5, wrap=lambda e: e, target=None):
    executor = wrap(Threads(targets or [table_target] * 2, drafter))
    try:
        parallel = Parallel(schedule, executor, lookahead, patience=patience)
        return decode(parallel, requests or [request()], target or table_target(), table_drafter(), rule), parallel
    finally:
        executor.close()


@pytest.mark.parametrize("schedule", [DSI, PEARL])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_with_match_the_tokens_are_those_of_plain_decoding(schedule, temperature):
    requests = [request(temperature=temperature, seed=s) for s in range(3)]
    assert run(schedule, requests=requests, rule=Match())[0] == plain(requests, table_target())


@pytest.mark.parametrize("schedule", [DSI, PEARL])
def test_timing_changes_no_token(schedule):
    """Sampled by rejection: other replicas, lookaheads of time and duplicates give the very same tokens for the same seed."""
    ask = [request(seed=5), request(seed=6)]
    first = run(schedule, requests=ask)[0]
    assert run(schedule, [table_target] * 3, requests=ask)[0] == first
    assert run(schedule, [table_target], requests=ask)[0] == first
    assert run(schedule, [Faulty(table_target, "late", 2), table_target], requests=ask)[0] == first
    assert run(schedule, requests=ask, wrap=Echoing)[0] == first


@pytest.mark.parametrize("how", ["raise", "exit", "hang", "late"])
@pytest.mark.parametrize("schedule", [DSI, PEARL])
def test_a_broken_replica_changes_no_token(schedule, how):
    ask = [request(seed=5)]
    expected = run(schedule, requests=ask)[0]
    assert run(schedule, [Faulty(table_target, how, 3), table_target], requests=ask, patience=0.3)[0] == expected


@pytest.mark.parametrize("how", ["raise", "exit", "hang"])
def test_without_any_replica_this_process_goes_on(how):
    ask = [request(seed=5), request(seed=6)]
    expected = run(requests=ask)[0]
    with pytest.warns(UserWarning, match="no target replica is left"):
        assert run(targets=[Faulty(table_target, how, 2)] * 2, requests=ask, patience=0.3)[0] == expected


@pytest.mark.parametrize("how", ["raise", "exit", "hang"])
@pytest.mark.parametrize("schedule", [DSI, PEARL])
def test_without_its_drafter_it_decodes_plainly_and_says_so(schedule, how):
    ask = [request(seed=5), request(seed=6)]
    with pytest.warns(UserWarning, match="drafter was lost"):
        tokens, _ = run(schedule, drafter=Faulty(table_drafter, how, 4), requests=ask, rule=Match(), patience=0.3)
    assert tokens == plain(ask, table_target())


RUNS = int(os.environ.get("ANYDRAFT_FAULTS", "100"))  # ANYDRAFT_FAULTS=200 is the full size


@pytest.mark.slow
def test_many_random_faults():
    """No wrong token, no hang."""
    ask = [request(tokens=12, seed=5)]
    expected = plain(ask, table_target())
    dice = random.Random(0)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(RUNS):
            count = dice.randint(1, 3)
            broken = [Faulty(table_target, dice.choice(["raise", "exit", "late", "hang"]), dice.randint(0, 8)) for _ in range(count)]
            targets = [b if dice.random() < 0.6 else table_target for b in broken]
            drafter = Faulty(table_drafter, dice.choice(["raise", "exit", "late", "hang"]), dice.randint(0, 10)) if dice.random() < 0.4 else table_drafter
            schedule = dice.choice([DSI, PEARL])
            wrap = Echoing if dice.random() < 0.5 else (lambda e: e)
            tokens, _ = run(schedule, targets, drafter, ask, Match(), dice.randint(1, 4), patience=0.2, wrap=wrap)
            assert tokens == expected, (n, schedule)
            assert time.perf_counter() - began < 3 * (n + 1) + 10


def test_closing_ends_the_threads():
    executor = Threads([table_target] * 2, table_drafter)
    executor.close()
    for thread in executor.threads:
        thread.join(2)
    assert not any(t.is_alive() for t in executor.threads)
    assert threading.active_count() >= 1


def test_what_cannot_run_here_is_refused():
    with pytest.raises(WrongPair, match="BlockVerification cannot run"):
        run(rule=BlockVerification())
    executor = Threads([table_target], table_drafter)
    tree = DraftModel(table_target(), 12, branching=(2, 2))
    with pytest.raises(WrongPair, match="drafts a tree"):
        decode(Parallel(DSI, executor, 2), [request()], table_target(), tree)
    executor.close()


def test_what_was_wasted_is_counted():
    _, parallel = run(targets=[Injected(0.01, None)] * 2, drafter=Injected(0.002, 0.5), requests=[request(20, 0.0)], target=Injected(0.0, None)())
    spent = parallel.spent.as_dict(2)
    assert spent["verifications"] > spent["wasted_verifications"] > 0 and spent["wasted_drafts"] > 0
    assert 0 < spent["idle_share"] < 1 and spent["tokens_per_s_per_device"] > 0
