"""A killed benchmark loses nothing that was finished: half lines, foreign files, sessions, and a real SIGKILL of the real command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from anydraft.bench.measure import Measurement
from anydraft.bench.store import Store
from anydraft.core.errors import BadOption

SETTINGS = {"suite": "bundled", "lookaheads": (2, 4)}


def measurement(n, **values):
    return Measurement("anydraft none", "anydraft", f"job {n}", 0, 0, seconds=1.0, tokens=5, **values)


def test_what_was_stored_comes_back(tmp_path):
    store = Store(tmp_path / "r.jsonl", SETTINGS)
    store.add_measurement("b", measurement(1, same=True, diverged=[-1], facts={"steps": 3}))
    again = Store(tmp_path / "r.jsonl", SETTINGS)
    assert again.measurements("b") == [measurement(1, same=True, diverged=[-1], facts={"steps": 3})]
    assert again.finished("b") == {("anydraft none", "job 1", 0)} and again.finished("other") == set()
    assert (store.session, again.session) == (0, 1)


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_in_half_is_dropped_and_the_rest_kept(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    store = Store(path, SETTINGS)
    for n in range(3):
        store.add_measurement("b", measurement(n))
    path.write_bytes(path.read_bytes()[:-cut])
    again = Store(path, SETTINGS)
    assert {job for _, job, _ in again.finished("b")} == {"job 0", "job 1"}
    again.add_measurement("b", measurement(2))
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_another_benchmark_is_not_mixed_in(tmp_path):
    Store(tmp_path / "r.jsonl", SETTINGS)
    with pytest.raises(BadOption, match="lookaheads"):
        Store(tmp_path / "r.jsonl", {**SETTINGS, "lookaheads": (2, 8)})


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    (tmp_path / "r.jsonl").write_text("hello\nworld\n")
    with pytest.raises(BadOption, match="not a benchmark"):
        Store(tmp_path / "r.jsonl", SETTINGS)
    assert (tmp_path / "r.jsonl").read_text() == "hello\nworld\n"


@pytest.mark.slow
def test_sigkill_half_way_loses_no_finished_cell(tmp_path):
    """The real command is killed without warning after some measurements; started again, it keeps every line and finishes the rest once."""
    command = [sys.executable, "-c", "from anydraft.cli import main; main()", "bench", "--out", str(tmp_path), "--assistant-model", "draft-bpe",
               "--method", "prompt_lookup", "--method", "token_recycling", "--num-assistant-tokens", "2", "--temperature", "0",
               "--prompts", "3", "--max-new-tokens", "4", "--budget", "0"]  # fmt: skip
    results = tmp_path / "results.jsonl"
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and run.poll() is None:
        if results.exists() and results.read_text().count('"measurement"') >= 4:
            break
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    before = [line for line in results.read_text().splitlines(keepends=True) if line.endswith("\n")]
    kept = [json.loads(line) for line in before]
    assert sum(line["kind"] == "measurement" for line in kept) >= 4 and not (tmp_path / "report.html").exists()

    subprocess.run(command, check=True, timeout=240, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = results.read_text().splitlines(keepends=True)
    assert after[: len(before)] == before
    found = [json.loads(line) for line in after if '"measurement"' in line]
    times = Counter((m["contender"], m["job"]) for m in found)
    jobs = {m["job"] for m in found}
    assert len(jobs) == 4 and len(times) == 3 * 4  # three prompts and the calibration, three contenders
    assert {key for key, n in times.items() if n > 1} <= {("anydraft none", job) for job in jobs}  # only the baseline runs again, to pair with
    assert all(m["error"] is None and m["same"] for m in found) and (tmp_path / "report.html").exists()
