"""Ray actors on this machine: the same tokens, also when an actor dies."""

import warnings

import pytest
from parts import Faulty, decode, plain, request, table_drafter, table_target

from anydraft.parallel.drive import Parallel
from anydraft.rules.match import Match
from anydraft.schedules.dsi import DSI
from anydraft.schedules.pearl import PEARL

pytest.importorskip("ray", reason="the extra [ray] is not installed")


@pytest.mark.slow
def test_the_tokens_are_those_of_plain_decoding_and_a_dead_actor_changes_none():
    from anydraft.parallel.rays import Rays

    ask = [request(seed=5), request(seed=6)]
    expected = plain(ask, table_target())
    executor = Rays([table_target, Faulty(table_target, "kill", 20)], table_drafter, cpus=0.1)
    try:
        for schedule in (DSI, PEARL, DSI):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # nobody but the one replica may be lost
                tokens = decode(Parallel(schedule, executor, 2, patience=10.0), ask, table_target(), table_drafter(), Match())
            assert tokens == expected
    finally:
        executor.close()


@pytest.mark.slow
def test_a_second_set_of_actors_does_not_wait_for_the_processors_of_the_first():
    """Two speculators in one process, each of which asks for a processor a worker, on a machine that has no more than one of them needs."""
    from anydraft.parallel.rays import Rays

    ask = [request(seed=5)]
    first = Rays([table_target] * 2, table_drafter)
    try:
        second = Rays([table_target], table_drafter)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert decode(Parallel(DSI, second, 2, patience=10.0), ask, table_target(), table_drafter(), Match()) == plain(ask, table_target())
        finally:
            second.close()
    finally:
        first.close()
