"""Interrupted jobs and runs, read-only disks and wrong clocks: no half-written file is left, no wrong result counts as
up to date, and the same command completes the work.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from lone_job import OUT, command, job_environment, start_job, until, wait_for_exit, write_script
from workflow_project import Project

from neuralign.common.files import leftovers, note_path
from neuralign.workflow.running import run
from neuralign.workflow.running.termination import RUN


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a script, its input, and the result of an earlier run."""
    monkeypatch.chdir(tmp_path)
    write_script(tmp_path)
    OUT.parent.mkdir(parents=True)
    OUT.write_text("old")
    return tmp_path


def has_ended(pid):
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_job_without_half_written_files(folder, number):
    process = start_job("wait")
    until(Path("waiting").exists)
    assert len(leftovers(OUT)) == 1, "the job is writing its output"
    process.send_signal(number)
    text = wait_for_exit(process, 128 + number)
    assert f"ended by {number.name}; no half-written result is left" in text.splitlines()[-1]
    assert "Traceback" not in text and "this job alone" not in text and not Path("logs").exists()
    assert not leftovers(OUT) and OUT.read_text() == "old" and not Path(note_path(OUT)).exists()
    assert (run.SCRATCH / ("k" * 20) / "progress").read_text() == "some", "the checkpoint is kept"
    wait_for_exit(start_job("hello"), 0)
    assert OUT.read_text().startswith("content hello") and not list(run.SCRATCH.glob("*.lock"))


def test_a_signal_ends_a_job_even_if_its_code_swallows_every_exception(folder):
    """C++ code of torch can swallow an exception that a signal handler raises."""
    script = Path("our script.py")
    script.write_text(script.read_text().replace("time.sleep(120)", "stubborn()").replace("def main", STUBBORN))
    process = start_job("wait")
    until(Path("waiting").exists)
    process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM" in wait_for_exit(process, 143) and not leftovers(OUT)


STUBBORN = """def stubborn():
    while True:
        try:
            time.sleep(120)
        except BaseException:
            pass


def main"""


def test_an_ignored_hangup_stays_ignored(folder):
    """As under nohup."""
    line = command("wait")
    process = subprocess.Popen(
        line,
        env=job_environment(),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    until(Path("waiting").exists)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(60) == 143


# ---- the run that started the job has ended


RUN_PROGRAM = """
import os, subprocess, sys
os.environ[{run!r}] = str(os.getpid())
subprocess.call(["bash", "-c", "set -euo pipefail; env A=1 " + sys.argv[1] + " 2> log"])
"""


def start_run(line):
    """Start a job through a shell, as Snakemake does: (process of the run, pid of the shell, pid of the job)."""
    quoted = " ".join(f"'{word}'" for word in line)
    process = subprocess.Popen([sys.executable, "-c", RUN_PROGRAM.format(run=RUN), quoted], env=job_environment())
    until(Path("waiting").exists)
    shell = children(process.pid)[0]
    return process, shell, children(shell)[0]


def children(pid):
    """Process ids of the children of a process."""
    return [child.pid for child in psutil.Process(pid).children()]


linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has pidfd_open")


@linux
@pytest.mark.parametrize("victim", ["run", "shell"])
def test_a_job_ends_when_its_run_or_the_shell_between_is_killed(folder, victim):
    process, shell, pid = start_run(command("wait"))
    os.kill(process.pid if victim == "run" else shell, signal.SIGKILL)
    until(lambda: has_ended(pid), 10)
    assert "the run that started this job, is gone; ended" in Path("log").read_text()
    assert not leftovers(OUT) and OUT.read_text() == "old"
    process.wait(10)


@linux
def test_a_job_whose_run_has_already_ended_does_not_start(folder):
    dead = subprocess.Popen(["true"])
    dead.wait()
    text = wait_for_exit(start_job("hello", **{RUN: str(dead.pid)}), 1)
    assert f"process {dead.pid}, the run that started this job, is gone" in text and OUT.read_text() == "old"


@linux
def test_a_job_that_the_run_did_not_start_itself_outlives_it(folder):
    """A job on a cluster has the environment of the run that submitted it, but is no child of that run."""
    other = subprocess.Popen(["sleep", "60"])
    process = start_job("wait", **{RUN: str(other.pid)})
    until(Path("waiting").exists)
    other.kill()
    other.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.terminate()
    wait_for_exit(process, 143)


# ---- whole runs

DATA = "results/data/small_digits.safetensors"
ENDPOINT = "results/endpoints/small_digits/tiny/plain/1.safetensors"
LONG = "endpoint: {epochs: 2, batch_size: 256"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with data and an endpoint; never edited."""
    project = Project.of_repository(tmp_path_factory.mktemp("endings") / "project")
    project.run("--cores", "1", target=ENDPOINT)
    return project


@pytest.fixture
def project(made, tmp_path):
    return made.copied(tmp_path / "project")


@pytest.fixture
def training(made, tmp_path):
    """A copy with data, in which the training takes longer than any test."""
    project = made.copied(tmp_path / "project")
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "90000,"))
    return project


def wait_for_training(project):
    """Wait until the project trains a network; return the process id of the training."""
    log = project.path("logs/endpoints/small_digits/tiny/plain/1.log")
    until(lambda: list(project.root.glob("results/.scratch/*/")) and log.exists())
    for process in psutil.process_iter():
        try:
            command, place = process.cmdline(), process.cwd()
        except psutil.Error:
            continue
        if Path(place) == project.root.resolve() and any("train_endpoint.py" in word for word in command[1:3]):
            return process.pid
    raise AssertionError("no training found")


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_jobs_end_within_seconds_after_snakemake_is_killed(training):
    process = training.start("--cores", "1", target=ENDPOINT)
    pid = wait_for_training(training)
    process.kill()  # Snakemake alone, not its children
    until(lambda: has_ended(pid), 10)
    process.communicate()
    assert (
        "the run that started this job, is gone"
        in training.path("logs/endpoints/small_digits/tiny/plain/1.log").read_text()
    )
    assert not leftovers(training.path(ENDPOINT)) and not training.path(ENDPOINT).exists()


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_after_ctrl_c_the_jobs_have_ended_and_the_next_run_needs_no_unlocking(training):
    process = training.start("--cores", "1", target=ENDPOINT)
    pid = wait_for_training(training)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=60)
    assert process.returncode != 0 and has_ended(pid)
    training.replace("tests/smoke.yaml", LONG.replace("2,", "90000,"), LONG)
    training.run("--cores", "1", target=ENDPOINT)
    assert training.path(note_path(ENDPOINT)).exists() and training.plan(target=ENDPOINT) == {}


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(training):
    first = training.start("--cores", "1", target=ENDPOINT)
    pid = wait_for_training(training)
    text = training.run("--cores", "1", target=ENDPOINT, expect=1)
    assert "Directory cannot be locked" in text and "Traceback" not in text
    assert not has_ended(pid) and first.poll() is None
    os.killpg(first.pid, signal.SIGINT)
    first.communicate(timeout=60)


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_snakemake_prints_the_command_of_a_failed_job_and_it_runs_the_job(project):
    project.replace("tests/smoke.yaml", "lr: 0.05, weight_decay: 5.0e-4", "lr: 1.0e+30, weight_decay: 5.0e-4")
    text = project.run("--cores", "1", target=ENDPOINT, expect=1)
    (line,) = [line for line in text.splitlines() if "this job alone:" in line]
    assert "its environment: " in text and str(project.path("logs/failures/endpoints")) in text
    shell = line.split("this job alone:")[1].strip()
    again = subprocess.run(shell, shell=True, cwd="/", capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert again.returncode == 1 and "the loss is not finite in epoch" in again.stderr
    report = json.loads(project.path(f"logs/failures/{ENDPOINT.removeprefix('results/')}.json").read_text())
    assert report["recipe"]["settings"]["training"]["lr"] == 1e30 and report["versions"]["torch"]


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_read_only_results_folder_stops_a_run_before_any_job(made, tmp_path):
    project = made.copied(tmp_path / "project")
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "3,"))
    results = project.path("results")
    mount = ["mount", "--bind", str(results), str(results)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(results)], check=True)
        text = project.run("--cores", "1", target=ENDPOINT, expect=1)
        assert "the results folder cannot be written to: [Errno 30] Read-only file system: 'results/recipes/" in text
        assert "most recent call" not in text and "localrule" not in text
    finally:
        subprocess.run(["umount", "--lazy", str(results)], check=True)


# ---- clocks


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
@pytest.mark.parametrize("shift", [-1e6, 1e6, 1.5e9], ids=["from the future", "from the past", "from 1979"])
@pytest.mark.parametrize("what", ["recipes", DATA, ENDPOINT, "notes"])
def test_modification_times_neither_cause_nor_prevent_a_rerun(project, what, shift):
    files = {"recipes": "results/recipes/**/*.json", "notes": "results/[de]*/**/*.json"}.get(what, what)
    paths = [p for p in project.root.glob(files) if p.is_file()]
    for path in paths:
        project.age(str(path.relative_to(project.root)), shift)
    assert paths and project.plan(target=ENDPOINT) == {}
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "3,"))
    assert project.plan(target=ENDPOINT) == {"train_endpoint": 1}


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
@pytest.mark.parametrize("what", ["input", "result"])
def test_a_result_is_up_to_date_although_the_clock_is_behind_the_files(project, what):
    """An input, or the previous result, is dated in the future: the new result must not look older."""
    for name in {"input": (DATA, note_path(DATA)), "result": (ENDPOINT, note_path(ENDPOINT))}[what]:
        project.age(name, -1e6)
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "1,"))
    project.run("--cores", "1", target=ENDPOINT)
    assert project.plan(target=ENDPOINT) == {} and json.loads(project.path(note_path(ENDPOINT)).read_text())
