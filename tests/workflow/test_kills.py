"""A study whose runs are killed by SIGKILL again and again makes the same files as one that is not interrupted.

NEURALIGN_KILLS says how many times (3 by default, for this takes minutes); NEURALIGN_KILLS=21 is for changes of jobs,
files and checkpoints. What was running at each kill is printed (`pytest -s`).
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from lone_job import until
from workflow_project import Project, environ

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

KILLS = int(os.environ.get("NEURALIGN_KILLS", 3))
LATEST_KILL = 10.0  # seconds after its first job in which a run is killed, at the latest
STUDY = """
regimes:
  plain:
    endpoint: {epochs: 8, batch_size: 64, lr: 0.05, schedule: {use: halving, every: 1}}
    curve: {epochs: 8, batch_size: 64, lr: 0.02}
alignments:
  searched: {use: pam, epochs: 2, batch_size: 64, candidates: 2, scoring_batches: 2, rounds: 2, bend_epochs: 2}
methods:
  kills_searched: {alignment: searched, curve: bezier}
studies:
  kills:
    title: A study that is killed
    grids:
      - {dataset: small_digits, network: tiny, regime: plain, pair: [1-2], curve_seed: [1],
         method: [linear_unaligned, kills_searched], evaluation: brief}
"""


class Run:
    """One run of the study, and its jobs."""

    def __init__(self, project: Project):
        self.project = project
        self.process = snakemake(project, "--keep-going")

    def jobs(self) -> dict[int, str]:
        """{process id: script} of the jobs at work and of the shells that wait for them."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode()
                if (script := re.search(r"scripts/(\w+)\.py", words)) and (folder / "cwd").samefile(self.project.root):
                    found[int(folder.name)] = script[1]
            except OSError:
                continue
        return found

    def activity(self) -> str:
        """The scripts that are running, and whether they are writing or have a checkpoint."""
        scripts = sorted(set(self.jobs().values()))
        if not scripts:
            return "between jobs"
        results = self.project.path("results")
        writing = any(re.fullmatch(r"\..+\.\w{8}\.\w+", p.name) for p in results.rglob(".*.*.*"))
        kept = any(results.glob(".scratch/*/*.safetensors"))
        return " ".join(scripts) + (" writing" if writing else " with a checkpoint" if kept else "")

    def kill(self, victim: str) -> bool:
        """Kill -9 of its jobs, of Snakemake alone, or of everything; whether the run was still at work."""
        if self.process.poll() is not None:
            return False
        match victim:
            case "jobs":
                pids = list(self.jobs())
                for pid in pids:
                    kill_if_there(pid)
                if not pids:
                    os.killpg(self.process.pid, signal.SIGKILL)
            case "snakemake":
                self.process.kill()
            case "everything":
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(300)
        until(lambda: not self.jobs(), 30)
        return True


def kill_if_there(pid: int) -> None:
    """Kill it, unless it has ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def snakemake(project: Project, *arguments: str, threads: int = 1) -> subprocess.Popen:
    """The command that `make study STUDY=kills` runs, in a process group of its own; one core, so one job at a time."""
    overlays = ["--configfile", "tests/smoke.yaml", "tests/kills.yaml"]
    line = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all", *overlays, *arguments, "--", "kills"]
    environment = environ() | {"NEURALIGN_CHECKPOINT_SECONDS": "0.05", "OMP_NUM_THREADS": str(threads)}
    with (project.root / "runs.log").open("ab") as log:
        return subprocess.Popen(line, cwd=project.root, env=environment, stdout=log, stderr=log, start_new_session=True)


def project_without_results(root: Path) -> Project:
    project = Project.of_repository(root)
    project.path("tests/kills.yaml").write_text(STUDY)
    return project


def contents(project: Project) -> dict[str, bytes]:
    """{name: content} of all weights, permutations, tables and figures."""
    found = {}
    folder = project.path("results")
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".csv", ".safetensors", ".png", ".pdf")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The files of an uninterrupted run, whose environment asks for more threads than its rules have."""
    project = project_without_results(tmp_path_factory.mktemp("kills") / "undisturbed")
    assert snakemake(project, threads=3).wait() == 0, (project.root / "runs.log").read_text() + project.logs()
    notes = [json.loads(path.read_text()) for path in project.root.glob("results/[acde]*/**/*.json")]
    assert {note["threads"] for note in notes} == {1}, "or results would depend on the number of cores"
    return contents(project)


def test_a_study_killed_at_any_moment_ends_in_the_same_files(undisturbed: dict, tmp_path: Path) -> None:
    draws, project, hits, finished = random.Random(5), project_without_results(tmp_path / "project"), Counter(), 0
    while hits.total() < KILLS:
        victim, delay = ("jobs", "snakemake", "everything")[hits.total() % 3], draws.uniform(0, LATEST_KILL)
        run = Run(project)
        until(lambda run=run: run.jobs() or run.process.poll() is not None, 120)
        time.sleep(delay)
        activity = run.activity()
        if run.kill(victim):
            hits[victim, activity] += 1
            print(f"{hits.total():>3} {victim:<10} after {delay:.2f} s: {activity}", flush=True)
            if victim != "jobs" or any(project.root.glob(".snakemake/locks/*")):
                assert snakemake(project, "--unlock").wait() == 0
        elif run.process.returncode == 0:  # it is complete: check it, and begin again
            assert differing(contents(project), undisturbed) == []
            shutil.rmtree(project.path("results"))
            finished += 1
    assert snakemake(project).wait() == 0, (project.root / "runs.log").read_text()[-3000:] + project.logs()
    assert differing(contents(project), undisturbed) == []
    assert not list(project.root.glob("results/.scratch/*")), "checkpoints and locks are gone"
    print(f"{hits.total()} kills survived, {finished + 1} studies completed")


def differing(found: dict, expected: dict) -> list[str]:
    """Names of what is in only one of both, or not the same."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
