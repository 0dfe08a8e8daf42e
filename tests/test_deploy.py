"""A Speculator with a parallel schedule: the same tokens on the bundled pair, its report, and what it refuses."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anydraft import Speculator, zoo
from anydraft.core.errors import BadOption, UnknownMethod


def load(**options) -> Speculator:
    return Speculator.from_pretrained(zoo.path("target"), assistant_model=zoo.path("draft-bpe"), **options)


@pytest.mark.parametrize("schedule", ["dsi", "pearl"])
def test_the_bundled_pair_gives_the_tokens_of_the_sequential_schedule(schedule):
    prompts = ["import os\n", "def main():"]
    expected = load(num_assistant_tokens=3).generate(prompts, max_new_tokens=16)
    with_workers = load(schedule=schedule, num_assistant_tokens=3)
    try:
        found = with_workers.generate(prompts, max_new_tokens=16)
    finally:
        with_workers.close()
    assert [g.token_ids for g in found] == [g.token_ids for g in expected]
    told = found[0].metrics.as_dict()["schedule"]
    assert told["schedule"] == schedule and told["k"] == 3 and told["verifications"] > 0 and 0 <= told["idle_share"] <= 1


def test_a_drafter_with_another_vocabulary_drafts_in_parallel_too():
    options = {"assistant_model": zoo.path("draft-spm"), "method": "tli", "num_assistant_tokens": 3}
    expected = Speculator.from_pretrained(zoo.path("target"), **options).generate("import os\n", max_new_tokens=12)
    made = Speculator.from_pretrained(zoo.path("target"), schedule="dsi", **options)
    try:
        assert made.generate("import os\n", max_new_tokens=12).token_ids == expected.token_ids
    finally:
        made.close()


@pytest.mark.parametrize(
    "options", [{"target_replicas": 2}, {"executor": "ray"}, {"schedule": "dsi", "executor": "fibers"}, {"schedule": "dsi", "target_replicas": 0},
                {"schedule": "dsi", "ray_address": "auto"}]
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(BadOption):
        load(**options)


def test_an_unknown_schedule_is_named():
    with pytest.raises(UnknownMethod, match="Did you mean 'dsi'"):
        load(schedule="dsy")


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["threads", "processes", "ray"])
def test_ctrl_c_leaves_nobody_behind(executor):
    """As a terminal does it: to the whole group, in the middle of a text."""
    if executor == "ray":
        pytest.importorskip("ray", reason="the extra [ray] is not installed")
    asked = f"--schedule dsi --target-replicas 2 --executor {executor} --method draft_model --num-assistant-tokens 2 --max-new-tokens 900"
    command = [sys.executable, "-u", "-c", "from anydraft.cli import main; main()", "generate", "import os", *asked.split()]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert parent.stdout is not None
    try:
        assert parent.stdout.read(1)
        children = _descendants(parent.pid)
        assert len(children) >= {"threads": 0, "processes": 3, "ray": 3}[executor]
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait(60) == 130
        end = time.time() + 15
        while time.time() < end and any(map(_runs, children)):
            time.sleep(0.1)
        assert not [pid for pid in children if _runs(pid)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return ["X", "0"]


def _runs(pid: int) -> bool:
    return _stat(pid)[0] not in "XZ"


def _descendants(pid: int) -> list[int]:
    everybody = {int(p.name): int(_stat(int(p.name))[1]) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found = [pid]
    for one in found:
        found += [child for child, parent in everybody.items() if parent == one]
    return found[1:]
