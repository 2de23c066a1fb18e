"""GPU slots: every process leases a device, which is free again however the process ends. The devices are made up."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress

import pytest
from workflow_project import ONE_PAIR, OVERLAY, Project

from neuralign.workflow.running import gpus
from neuralign.workflow.running.gpus import devices, lease, slots

# takes a slot, says which device it got, holds it until its standard input ends
HOLDER = """
import os, subprocess, sys, time
from neuralign.workflow.running.gpus import lease
with lease({gpus}):
    {child}
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""
CHILDREN = {
    "forked": "os.fork() or (time.sleep(60), os._exit(0))",
    "another program, with all open files": "subprocess.Popen(['sleep', '60'], close_fds=False)",
}


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

    def start(wait=True, child="", gpus=1, **environment):
        path = os.pathsep.join(sys.path)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(child=child, gpus=gpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path} | environment,
            start_new_session=True,
        )
        started.append(process)
        process.device = process.stdout.readline().strip() if wait else None
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too
        process.communicate()


def test_processes_at_the_same_time_have_different_devices(holder):
    assert {holder().device, holder().device} == {"3", "5"}


@pytest.mark.parametrize(("count", "each"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_a_device_has_as_many_processes_as_slots_and_the_next_process_waits(holder, monkeypatch, count, each):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", str(each))
    holders = [holder() for _ in range(count * each)]
    assert Counter(h.device for h in holders) == {str(device): each for device in range(count)}
    waiting = holder(wait=False)
    time.sleep(0.5)
    assert waiting.poll() is None
    holders[-1].communicate()
    assert waiting.stdout.readline().strip() == holders[-1].device


def test_a_killed_process_gives_its_device_back(holder):
    first, _ = holder(), holder()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert holder().device == first.device


@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_child_that_outlives_a_killed_process_does_not_keep_the_device(holder, child):
    first, _ = holder(child=child), holder()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert holder().device == first.device


def test_slots_alternate_between_the_devices(monkeypatch):
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", "2")
    assert slots() == [("3", 0), ("5", 0), ("3", 1), ("5", 1)]


@pytest.mark.parametrize("visible", ["GPU-8f3a,GPU-11c2", "MIG-2d4f,MIG-77aa", "MIG-GPU-8f3a/1/0,MIG-GPU-8f3a/2/0"])
def test_devices_are_leased_by_the_names_that_cuda_gives_them(holder, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert {holder().device, holder().device} == set(visible.split(","))


def test_a_job_of_several_processes_takes_a_slot_on_as_many_devices(holder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", "2")
    holder()
    with lease(3):
        assert sorted(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) == ["3", "5", "7"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
        assert {holder().device, holder().device} == {"5", "7"}, "both slots of 3 are taken"


def test_a_job_that_waits_for_several_devices_holds_none(holder, monkeypatch):
    first = holder()
    waiting = holder(gpus=2, wait=False)
    time.sleep(1.5)
    second = holder()
    assert {first.device, second.device} == {"3", "5"} and waiting.poll() is None
    first.communicate(), second.communicate()
    assert waiting.stdout.readline().strip() == "3,5"


def test_more_devices_than_there_are_are_refused():
    message = (
        "gpus: this job needs 3 GPUs at once, and 2 are visible to it; lower `gpus` of its regime, or compute on the "
        "CPU with `snakemake --resources gpu=0`"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), lease(3):
        pass


def test_several_processes_need_no_devices_where_there_are_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with lease(3):
        assert devices() == []


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", ""])
def test_an_invalid_number_of_slots_is_refused(monkeypatch, wrong):
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", wrong)
    with pytest.raises(ValueError, match="NEURALIGN_SLOTS_PER_GPU must be a number of slots, 1 or more; found"):
        slots()


def test_the_device_is_set_within_the_lease():
    with lease(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_lease_of_no_gpu_hides_all_devices_and_takes_no_slot(tmp_path):
    with lease(0):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not list(tmp_path.iterdir())


def test_a_job_of_slurm_keeps_the_device_that_slurm_assigned_to_it(holder):
    for job in ("1", "2"):  # with control groups, each has a device 0
        assert holder(SLURM_JOB_ID=job, CUDA_VISIBLE_DEVICES="0").device == "0"


def test_processes_within_one_allocation_of_slurm_have_different_devices(holder):
    assert {holder(SLURM_JOB_ID="1").device, holder(SLURM_JOB_ID="1").device} == {"3", "5"}


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
        ("MIG-a, MIG-b", ["MIG-a", "MIG-b"]),
    ],
)
def test_devices_are_those_cuda_would_show(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == found


def test_without_the_variable_devices_are_counted(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for name in ("nvidia3", "nvidia5", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "Path", lambda *parts: tmp_path if parts == ("/dev",) else pytest.fail(str(parts)))
    assert devices() == ["0", "1", "2"]  # as CUDA counts them


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


# ---- the workflow

PAIR = f"""
  pair:
    title: Two endpoints
    grids:{ONE_PAIR}"""
# a training says what it sees, and goes on when there are two at the same time
MEET = """
    sign = Path("at_work", str(seed))
    sign.parent.mkdir(exist_ok=True)
    sign.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    end = time.monotonic() + 120
    while len(list(sign.parent.iterdir())) < 2:
        assert time.monotonic() < end, "the other one did not come"
        time.sleep(0.05)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # there is no such device
"""


@pytest.fixture(scope="module")
def meeting(tmp_path_factory) -> Project:
    """A study whose trainings meet; its data are there."""
    project = Project.of_repository(tmp_path_factory.mktemp("meeting") / "project")
    project.append(OVERLAY, PAIR)
    script, begin = "scripts/train_endpoint.py", "    images, net ="
    project.replace(script, begin, MEET + begin)
    project.replace(script, "import torch\n", "import os\nimport time\nfrom pathlib import Path\n\nimport torch\n")
    project.run("--cores", "1", "--until", "fetch_data", target="pair")
    return project


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
@pytest.mark.parametrize(
    ("visible", "each", "arguments", "seen"),
    [
        ("7,9", 1, [], {"7", "9"}),
        ("7", 2, [], {"7"}),
        ("7,9", 1, ["--resources", "gpu=0"], {""}),
    ],
    ids=["two devices", "two slots on one device", "no device"],
)
def test_two_simultaneous_trainings_see(meeting, tmp_path, visible, each, arguments, seen):
    project = meeting.copied(tmp_path / "project")
    environment = {"CUDA_VISIBLE_DEVICES": visible, "NEURALIGN_SLOTS_PER_GPU": str(each)}
    project.run("--cores", "2", *arguments, "--until", "train_endpoint", target="pair", **environment)
    assert {file.read_text() for file in project.root.glob("at_work/*")} == seen


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_one_device_with_one_slot_has_one_training_at_a_time(meeting, tmp_path):
    project = meeting.copied(tmp_path / "project")
    started = project.start("--cores", "2", "--until", "train_endpoint", target="pair", CUDA_VISIBLE_DEVICES="7")
    while not list(project.root.glob("at_work/*")):
        assert started.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # in which a second training would start
    signs, logs = (list(project.root.glob(files)) for files in ("at_work/*", "logs/endpoints/**/*.log"))
    os.killpg(started.pid, signal.SIGINT)
    started.communicate(timeout=60)
    assert len(signs) == len(logs) == 1
