"""`anydraft doctor` reports this machine, and refuses a device that is not there."""

import json

import pytest
import torch

from anydraft import cli
from anydraft.bench import bandwidth as measured
from anydraft.cli import doctor


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measures small buffers: these tests are about the report, not the machine."""
    monkeypatch.setattr(measured, "bandwidth", lambda device: measured.Bandwidth(copy=2.0, read=1.0))
    monkeypatch.setattr(measured, "matmul_gflops", lambda device, dtype: None if dtype is torch.float16 else 3.0)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def test_json(capsys):
    assert run("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["machine"]["torch threads"] == torch.get_num_threads()
    assert facts["memory bandwidth, GB/s"] == {"device": "cpu", "copy": 2.0, "read": 1.0}
    assert facts["matrix products, GFLOP/s"] == {"float32": 3.0, "bfloat16": 3.0, "float16": None}


def test_table_says_what_is_not_supported(capsys):
    assert run("doctor") == 0
    shown = capsys.readouterr().out
    assert torch.__version__ in shown and "not supported" in shown


def test_a_device_that_is_not_there(capsys):
    assert run("doctor", "--device", "nosuch") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: torch cannot use the device 'nosuch'") and shown.err.count("\n") == 1
    assert shown.out == ""


def test_devices_start_with_the_cpu():
    assert doctor.devices()[0] == "cpu"
