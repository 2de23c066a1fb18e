"""Jobs and runs that are ended before their time, disks and clocks that do not behave: nothing half made is left,
nothing wrong is taken for right, and the same command completes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from lone_job import OUT, command, ended, environ, make, start, until
from workflow_project import Project

from neuralign.common.files import leftovers, note_path
from neuralign.workflow.running import run
from neuralign.workflow.running.termination import RUN


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a script, the file it reads, and the result of an earlier run."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    OUT.parent.mkdir(parents=True)
    OUT.write_text("old")
    return tmp_path


def gone(pid):
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_job_with_its_files_in_order(folder, number):
    process = start("wait")
    until(Path("waiting").exists)
    assert len(leftovers(OUT)) == 1, "in the midst of writing"
    process.send_signal(number)
    text = ended(process, 128 + number)
    assert f"ended by {number.name}; no half-written result is left" in text.splitlines()[-1]
    assert "Traceback" not in text and "this job alone" not in text and not Path("logs").exists()
    assert not leftovers(OUT) and OUT.read_text() == "old" and not Path(note_path(OUT)).exists()
    assert (run.SCRATCH / ("k" * 20) / "progress").read_text() == "some", "the checkpoint is kept"
    ended(start("hello"), 0)
    assert OUT.read_text().startswith("content hello") and not list(run.SCRATCH.glob("*.lock"))


def test_a_job_ends_even_if_it_swallows_every_exception(folder):
    """As torch does now and then with one that a signal handler raises."""
    script = Path("our script.py")
    script.write_text(script.read_text().replace("time.sleep(120)", "stubborn()").replace("def main", STUBBORN))
    process = start("wait")
    until(Path("waiting").exists)
    process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM" in ended(process, 143) and not leftovers(OUT)


STUBBORN = """def stubborn():
    while True:
        try:
            time.sleep(120)
        except BaseException:
            pass


def main"""


def test_a_hangup_that_is_ignored_stays_ignored(folder):
    """As under nohup."""
    line = command("wait")
    process = subprocess.Popen(
        line, env=environ(), stderr=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    until(Path("waiting").exists)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(60) == 143


# ---- the run that started it is gone


RUNNER = """
import os, subprocess, sys
os.environ[{run!r}] = str(os.getpid())
subprocess.call(["bash", "-c", "set -euo pipefail; env A=1 " + sys.argv[1] + " 2> log"])
"""


def runner(line):
    """A process that starts a job as Snakemake does, by a shell that waits for it."""
    quoted = " ".join(f"'{word}'" for word in line)
    process = subprocess.Popen([sys.executable, "-c", RUNNER.format(run=RUN), quoted], env=environ())
    until(Path("waiting").exists)
    shell = children(process.pid)[0]
    return process, shell, children(shell)[0]


def children(pid):
    """Process ids."""
    return [child.pid for child in psutil.Process(pid).children()]


linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells of the end of other processes")


@linux
@pytest.mark.parametrize("victim", ["run", "shell"])
def test_a_job_ends_with_the_run_that_started_it_or_the_shell_between(folder, victim):
    process, shell, pid = runner(command("wait"))
    os.kill(process.pid if victim == "run" else shell, signal.SIGKILL)
    until(lambda: gone(pid), 10)
    assert "the run that started this job, is gone; ended" in Path("log").read_text()
    assert not leftovers(OUT) and OUT.read_text() == "old"
    process.wait(10)


@linux
def test_a_job_whose_run_was_gone_before_it_began_does_not_begin(folder):
    dead = subprocess.Popen(["true"])
    dead.wait()
    text = ended(start("hello", **{RUN: str(dead.pid)}), 1)
    assert f"process {dead.pid}, the run that started this job, is gone" in text and OUT.read_text() == "old"


@linux
def test_a_job_that_is_no_child_of_the_run_goes_on_without_it(folder):
    """As on a cluster, where a job inherits the environment of a run on another machine, or is submitted by it."""
    other = subprocess.Popen(["sleep", "60"])
    process = start("wait", **{RUN: str(other.pid)})
    until(Path("waiting").exists)
    other.kill()
    other.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.terminate()
    ended(process, 143)


# ---- whole runs

DATA = "results/data/small_digits.safetensors"
ENDPOINT = "results/endpoints/small_digits/tiny/plain/1.safetensors"
LONG = "endpoint: {epochs: 2, batch_size: 256"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data and an endpoint; never edited."""
    project = Project.of_repository(tmp_path_factory.mktemp("endings") / "project")
    project.run("--cores", "1", target=ENDPOINT)
    return project


@pytest.fixture
def project(made, tmp_path):
    return made.copied(tmp_path / "project")


@pytest.fixture
def training(made, tmp_path):
    """A copy with data, in which training takes for ever."""
    project = made.copied(tmp_path / "project")
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "90000,"))
    return project


def at_work(project):
    """The process of a training under way, once it has one."""
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
def test_jobs_end_within_seconds_of_a_run_that_is_killed_outright(training):
    process = training.start("--cores", "1", target=ENDPOINT)
    pid = at_work(training)
    process.kill()  # Snakemake alone, not its children
    until(lambda: gone(pid), 10)
    process.communicate()
    assert (
        "the run that started this job, is gone"
        in training.path("logs/endpoints/small_digits/tiny/plain/1.log").read_text()
    )
    assert not leftovers(training.path(ENDPOINT)) and not training.path(ENDPOINT).exists()


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_ctrl_c_ends_a_run_and_its_jobs_and_the_next_one_needs_no_unlocking(training):
    process = training.start("--cores", "1", target=ENDPOINT)
    pid = at_work(training)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=60)
    assert process.returncode != 0 and gone(pid)
    training.replace("tests/smoke.yaml", LONG.replace("2,", "90000,"), LONG)
    training.run("--cores", "1", target=ENDPOINT)
    assert training.path(note_path(ENDPOINT)).exists() and training.plan(target=ENDPOINT) == {}


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(training):
    first = training.start("--cores", "1", target=ENDPOINT)
    pid = at_work(training)
    text = training.run("--cores", "1", target=ENDPOINT, expect=1)
    assert "Directory cannot be locked" in text and "Traceback" not in text
    assert not gone(pid) and first.poll() is None
    os.killpg(first.pid, signal.SIGINT)
    first.communicate(timeout=60)


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_snakemake_shows_the_end_of_the_log_of_a_failed_job_and_its_command_works(project):
    project.replace("tests/smoke.yaml", "lr: 0.05, weight_decay: 5.0e-4", "lr: 1.0e+30, weight_decay: 5.0e-4")
    text = project.run("--cores", "1", target=ENDPOINT, expect=1)
    (line,) = [line for line in text.splitlines() if "this job alone:" in line]
    assert "its environment: " in text and str(project.path("logs/failures/endpoints")) in text
    shell = line.split("this job alone:")[1].strip()
    again = subprocess.run(shell, shell=True, cwd="/", capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert again.returncode == 1 and "the loss is not finite in epoch" in again.stderr
    bundle = json.loads(project.path(f"logs/failures/{ENDPOINT.removeprefix('results/')}.json").read_text())
    assert bundle["recipe"]["settings"]["training"]["lr"] == 1e30 and bundle["versions"]["torch"]


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_results_folder_that_cannot_be_written_to_is_told_before_any_job(made, tmp_path):
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
def test_files_from_another_time_are_no_reason_and_no_excuse(project, what, shift):
    files = {"recipes": "results/recipes/**/*.json", "notes": "results/[de]*/**/*.json"}.get(what, what)
    found = [p for p in project.root.glob(files) if p.is_file()]
    for path in found:
        project.age(str(path.relative_to(project.root)), shift)
    assert found and project.plan(target=ENDPOINT) == {}
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "3,"))
    assert project.plan(target=ENDPOINT) == {"train_endpoint": 1}


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
@pytest.mark.parametrize("what", ["input", "result"])
def test_a_job_under_a_clock_that_is_behind_is_done_when_it_is_done(project, what):
    """An input, or the result before, is dated in the future: what is made anew must not look older."""
    for name in {"input": (DATA, note_path(DATA)), "result": (ENDPOINT, note_path(ENDPOINT))}[what]:
        project.age(name, -1e6)
    project.replace("tests/smoke.yaml", LONG, LONG.replace("2,", "1,"))
    project.run("--cores", "1", target=ENDPOINT)
    assert project.plan(target=ENDPOINT) == {} and json.loads(project.path(note_path(ENDPOINT)).read_text())
