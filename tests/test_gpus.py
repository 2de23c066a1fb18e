"""GPU slots: a device of its own for each process, given back however the process ends. The devices are made up."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from neuralign import gpus
from neuralign.gpus import devices, lease, slots

# takes a slot, says which device it got, holds it until its standard input ends
HOLDER = """
import os, sys
from neuralign.gpus import lease
with lease(1):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with devices 3 and 5, nothing taken, outside Slurm."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("NEURALIGN_SLOTS_PER_GPU", raising=False)
    yield
    tempfile.tempdir = None


@pytest.fixture
def holder():
    """holder() starts a process that takes a slot; .device is what it got, None while it waits."""
    started = []

    def start(wait=True):
        path = os.pathsep.join(sys.path)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        started.append(process)
        process.device = process.stdout.readline().strip() if wait else None
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_processes_at_the_same_time_have_different_devices(holder):
    assert {holder().device, holder().device} == {"3", "5"}


def test_who_comes_when_all_is_taken_waits_until_a_process_ends(holder):
    first, _ = holder(), holder()
    third = holder(wait=False)
    time.sleep(0.5)
    assert third.poll() is None
    first.communicate()
    assert third.stdout.readline().strip() == first.device


def test_a_killed_process_gives_its_device_back(holder):
    first, _ = holder(), holder()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert holder().device == first.device


def test_several_slots_on_a_device_are_filled_evenly(holder, monkeypatch):
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", "2")
    assert slots() == [("3", 0), ("5", 0), ("3", 1), ("5", 1)]
    assert sorted(holder().device for _ in range(4)) == ["3", "3", "5", "5"]


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_slots_that_is_none_is_refused(monkeypatch, wrong):
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", wrong)
    with pytest.raises(ValueError, match="NEURALIGN_SLOTS_PER_GPU: found"):
        slots()


def test_the_device_is_set_within_the_lease():
    with lease(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_no_gpu_hides_them_all_and_takes_no_slot(tmp_path):
    with lease(0):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not list(tmp_path.iterdir())


def test_inside_slurm_the_device_is_slurms(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with lease(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("0", ["0"]),
        ("0,1", ["0", "1"]),
        ("2, 0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
    ],
)
def test_devices_are_those_cuda_would_show(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == found


def test_without_the_variable_devices_are_counted(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "Path", lambda *parts: tmp_path if parts == ("/dev",) else pytest.fail(str(parts)))
    assert devices() == ["0", "1", "2", "10"]


def test_without_gpus_a_lease_does_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with lease(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not list(tmp_path.iterdir())


def test_an_error_within_a_lease_gives_the_slot_back():
    with pytest.raises(RuntimeError, match="of the job"), lease(1):
        raise RuntimeError("of the job")
    with lease(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
