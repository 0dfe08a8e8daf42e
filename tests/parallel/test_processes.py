"""Processes: the same tokens, workers that die, and none that outlive their parent's Ctrl-C."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from parts import Faulty, decode, plain, request, table_drafter, table_target

from anydraft.core.messages import Open, Scored, Verify
from anydraft.parallel.drive import Parallel
from anydraft.parallel.processes import Packed, Processes
from anydraft.rules.match import Match
from anydraft.schedules.dsi import DSI
from anydraft.schedules.pearl import PEARL


def test_the_tokens_are_those_of_plain_decoding_and_a_killed_replica_changes_none():
    ask = [request(seed=5), request(seed=6)]
    expected = plain(ask, table_target())
    executor = Processes([table_target, Faulty(table_target, "kill", 20)], table_drafter)
    try:
        for schedule in (DSI, PEARL, DSI):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # nobody but the one replica may be lost
                tokens = decode(Parallel(schedule, executor, 2, patience=5.0), ask, table_target(), table_drafter(), Match())
            assert tokens == expected
        executor.processes[1].join(10)
    finally:
        executor.close()
    assert not any(process.is_alive() for process in executor.processes.values())


def test_who_sends_to_a_busy_worker_does_not_wait_and_every_word_arrives():
    executor = Processes([Faulty(table_target, "hang", 0), Faulty(table_target, "late", 0)], None)
    try:
        executor.send(Open(1, request(), 0))
        for replica in (0, 1):
            executor.send(Verify(1 + replica, replica, 1, 0, 3, (), ()))
        for key in range(2, 22):  # 16 MB, more than any socket takes; the hanging worker will never read them
            executor.send(Open(key, dataclasses.replace(request(), prompt=torch.ones(100_000, dtype=torch.int64)), 0))
        executor.send(Verify(3, 1, 21, 0, 100_000, (), ()))
        answers, end = [], time.time() + 60
        while len(answers) < 2 and time.time() < end:
            answers += [answer] if (answer := executor.receive(1.0)) is not None else []
        assert [answer.task for answer in answers] == [2, 3]
        assert all(isinstance(answer, Scored) for answer in answers)
    finally:
        executor.close()


def test_a_killed_drafter_and_a_model_that_cannot_be_made():
    ask = [request(seed=5)]
    executor = Processes([table_target, Faulty(None, "kill", 0)], Faulty(table_drafter, "kill", 3))  # None cannot be called
    try:
        with pytest.warns(UserWarning, match="drafter was lost"):
            assert decode(Parallel(DSI, executor, 2, patience=5.0), ask, table_target(), table_drafter(), Match()) == plain(ask, table_target())
    finally:
        executor.close()


def test_ctrl_c_ends_every_child():
    script = textwrap.dedent("""
        import sys
        from parts import Injected, decode, request
        from anydraft.parallel.drive import Parallel
        from anydraft.parallel.processes import Packed, Processes
        from anydraft.schedules.dsi import DSI
        if __name__ == "__main__":
            executor = Processes([Injected(0.05, None)], Injected(0.01, 0.8))
            print(*[p.pid for p in executor.processes.values()], flush=True)
            try:
                decode(Parallel(DSI, executor, 2), [request(5000, 0.0)], Injected(0.05, None)(), Injected(0.01, 0.8)())
            except KeyboardInterrupt:
                executor.close()
                sys.exit(130)
    """)
    here = Path(__file__).parent
    (path := here / "_ctrl_c.py").write_text(script)
    try:
        parent = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(1.0)
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert parent.wait(30) == 130
        end = time.time() + 5
        while time.time() < end and any(_alive(pid) for pid in pids):
            time.sleep(0.1)
        assert not any(_alive(pid) for pid in pids)
    finally:
        path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_packed_builder_takes_copies_of_its_weights_along():
    tied = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    build = pickle.loads(bytes(ForkingPickler.dumps(Packed(partial(list, tied)))))
    first, second = build()
    assert first.weight is second.weight and torch.equal(first.weight, tied[0].weight)
    assert first.weight.data_ptr() != tied[0].weight.data_ptr() and not first.weight.is_shared()
    executor = Processes([table_target], table_drafter, by_host=True)
    try:
        assert decode(Parallel(DSI, executor, 2), [request()], table_target(), table_drafter(), Match()) == plain([request()], table_target())
    finally:
        executor.close()
