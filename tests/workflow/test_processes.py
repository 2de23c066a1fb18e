"""A job of several processes: they end together, say why, and leave results as one process would, but for rounding."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from lone_job import OUT, change_into, command, job_environment, until, wait_for_exit
from tiny import assert_close
from workflow_project import OVERLAY, Project, environ

from neuralign.common.files import note_path
from neuralign.common.tensors import load_tensors

SCRIPT = '''"""A script for tests."""

import os
import time
from pathlib import Path

from neuralign.workflow.running.run import run


def main(data, out, *, word, scratch, processes):
    Path(f"began.{processes.rank}").touch()
    if word == "fail" and processes.rank == 1:
        raise RuntimeError("on purpose")
    if word == "leave" and processes.rank == 1:
        os._exit(7)
    if word != "hello":
        processes.of_first(0), processes.of_first(0), time.sleep(120)
    if processes.leads:
        Path(out).write_text(f"{processes.count} {os.environ['OMP_NUM_THREADS']} {os.environ['CUDA_VISIBLE_DEVICES']}")


if __name__ == "__main__":
    run(main)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a script of two processes and the file it reads."""
    here = change_into(tmp_path, monkeypatch)
    Path("our script.py").write_text(SCRIPT)
    return here


def start(word, *arguments, **environment):
    """The process of the job, which starts two others."""
    line = command(word, *arguments, settings={"word": word, "gpus": 2})
    environment = job_environment(**environment)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def rank(job, number):
    """The process with this number."""
    started = (p for p in psutil.Process(job.pid).children() if "RANK" in p.environ())
    return next(p for p in started if p.environ()["RANK"] == str(number))


def begun():
    return all(Path(f"began.{number}").exists() for number in range(2))


def test_every_process_has_its_share_of_the_threads_and_no_gpu_where_none_is_asked_for(folder):
    wait_for_exit(start("hello", "--gpu", "0", OMP_NUM_THREADS="5"), 0)
    assert OUT.read_text() == "2 2 "


def test_the_error_of_one_process_ends_the_job(folder):
    text = wait_for_exit(start("fail"), 1)
    assert re.search(r"process 1 of 2: Traceback .*\n(.*\n)*RuntimeError: on purpose\n", text)
    assert "process 0 of 2" not in text and not OUT.exists()
    assert "on purpose" in json.loads(Path("logs/failures/x/out.txt.json").read_text())["error"]


def test_a_process_that_leaves_without_a_word_ends_the_job(folder):
    text = wait_for_exit(start("leave"), 1)
    assert "process 1 of 2 ended with status 7; so the others were ended too\n" in text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_ends_the_job(folder, number):
    job = start("wait")
    until(begun)
    other, killed = rank(job, 0), rank(job, 1)
    killed.send_signal(number)
    text = wait_for_exit(job, 1)
    assert f"process 1 of 2 was ended by {number.name}; so the others were ended too\n" in text
    assert not other.is_running()


def test_the_processes_end_with_the_job(folder):
    job = start("wait")
    until(begun)
    processes = [rank(job, number) for number in range(2)]
    job.kill()
    job.communicate()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes))


# in the workflow

SHARED = """
  halves:
    endpoint: {epochs: 1, batch_size: 256, lr: 0.05, gpus: 2}
    curve: {epochs: 1, batch_size: 256, lr: 0.02}
  shared:
    endpoint: {epochs: 1, batch_size: 256, lr: 0.05}
    curve: {epochs: 6, batch_size: 100, lr: 0.02, gpus: 2, batch_norm: per_process}
"""
ENDPOINT = "results/endpoints/small_digits/tiny/{}/1.safetensors"
CURVE = "results/curves/small_digits/tiny/shared/1-2/none/bezier/1.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a regime of two processes."""
    made = Project.of_repository(tmp_path_factory.mktemp("project") / "project")
    made.replace(OVERLAY, "regimes:\n", "regimes:" + SHARED)
    return made


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_gpus_reach_the_command_and_leave_other_recipes_as_they_are(project, tmp_path):
    _, text = project.dry_run("--printshellcmds", target=CURVE)
    assert re.findall(r"scripts/(\w+)\.py .* --gpu (\d)", text) == [
        ("fetch_data", "0"),
        *[("train_endpoint", "1")] * 2,
        ("train_curve", "2"),
    ]
    recipe = json.loads((project.root / "results/recipes" / CURVE.removeprefix("results/")).with_suffix(
        ".safetensors.json").read_text())  # fmt: skip
    assert recipe["settings"]["gpus"] == 2 and recipe["settings"]["training"]["batch_norm"] == "per_process"
    _, text = project.dry_run("--printshellcmds", target=ENDPOINT.format("plain"))
    (key,) = re.findall(r"train_endpoint\.py .* --key (\w+) --gpu 1", text)
    project.replace(OVERLAY, "halving, every: 1}}", "halving, every: 1}, gpus: 1}")
    _, text = project.dry_run("--printshellcmds", target=ENDPOINT.format("plain"))
    assert f"--key {key} " in text


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_curve_whose_process_is_killed_goes_on_from_its_checkpoint(project):
    project.run("--cores", "2", target=CURVE, NEURALIGN_CHECK_CLOSURE="1")
    bends = project.root / CURVE
    assert json.loads(Path(note_path(bends)).read_text())["threads"] == 2
    expected = bends.read_bytes()
    bends.unlink()
    line = [sys.executable, "-P", "scripts/train_curve.py", f"results/recipes/{CURVE.removeprefix('results/')}.json"]
    environment = environ() | {"PYTHONPATH": "lib", "OMP_NUM_THREADS": "2", "NEURALIGN_CHECKPOINT_SECONDS": "0"}

    def job():
        return subprocess.Popen(line, cwd=project.root, env=environment, stderr=subprocess.PIPE, text=True)

    first = job()
    until(lambda: list(project.root.glob("results/.scratch/*/progress.safetensors")), 120)
    rank(first, 1).kill()
    text = wait_for_exit(first, 1)
    assert "process 1 of 2 was ended by SIGKILL" in text and not bends.exists()
    assert "resumed after epoch " in wait_for_exit(job(), 0)
    assert bends.read_bytes() == expected
    assert not list(project.root.glob("results/.scratch/*/progress.safetensors"))


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_an_endpoint_of_two_processes_is_that_of_one_but_for_rounding(project):
    project.run("--cores", "2", target=ENDPOINT.format("halves"), NEURALIGN_CHECK_CLOSURE="1")
    project.run("--cores", "2", target=ENDPOINT.format("shared"))
    halves, whole = (load_tensors(project.root / ENDPOINT.format(regime)) for regime in ("halves", "shared"))
    assert_close(halves, whole, 0.02)  # in float32, one thread and two differ as much on these images
