"""A copy of the repository in which tests may edit anything, and Snakemake on it.

`Project.plan` is a dry run. It runs Snakemake's own command line in a process forked from a server that has Snakemake
imported but nothing of neuralign, which saves most of the start-up time and changes nothing else; `Project.run` is a
real run, in a process of its own.
"""

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).parents[2]
COPIED = ("Snakefile", "rules", "scripts", "lib", "config.yaml", "envs", "profiles", "requirements.lock", "README.md")
OVERLAY = "tests/smoke.yaml"
EVERYTHING = "tests/everything.yaml"  # laid over that
FOREIGN = "tests/foreign.yaml"  # likewise
COHORTS = "tests/cohorts.yaml"  # likewise
# the grid of one pair, with one path under attack
ONE_PAIR = """
      - dataset: small_digits
        network: tiny
        regime: hardened
        pair: 1-2
        curve_seed: 1
        method: [smoke_matched]
        evaluation: brief_attacked
"""
# beginnings of the environment variables that would change a run
REMOVED = ("NEURALIGN_", "SNAKEMAKE_", "CUDA_VISIBLE_DEVICES", "SLURM_", "PYTHONPATH", "COLUMNS", "LINES")

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["snakemake.cli", "pydantic", "workflow_project"])


class Project:
    """One copy. `plan` and `run` take the arguments of `snakemake` after the usual ones."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def of_repository(cls, root: Path) -> "Project":
        """A fresh copy of the workflow without any results."""
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=ignored)
            elif source.exists():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, root / name)
        (root / OVERLAY).parent.mkdir()
        for overlay in (OVERLAY, EVERYTHING, FOREIGN, COHORTS):
            shutil.copy2(REPOSITORY / overlay, root / overlay)
        return cls(root)

    def copied(self, root: Path) -> "Project":
        """This project, results and Snakemake's records included, with all times as they are."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)

    # editing

    def path(self, name: str) -> Path:
        """The path of a file of the project."""
        return self.root / name

    def replace(self, name: str, old: str, new: str, *, count: int = 1) -> None:
        """Replace `old`, which must occur `count` times."""
        text = self.path(name).read_text()
        assert text.count(old) == count, f"{name}: {old!r} occurs {text.count(old)} times"
        self.path(name).write_text(text.replace(old, new))

    def create(self, name: str, text: str) -> None:
        """Write a file that must not exist yet."""
        assert not self.path(name).exists()
        self.path(name).write_text(text)

    def append(self, name: str, text: str) -> None:
        """Add to the end of a file that is there: a row about code must not pass because the code has moved."""
        assert self.path(name).exists(), name
        with self.path(name).open("a") as file:
            file.write(text)

    def age(self, name: str, seconds: float) -> None:
        """Shift the modification time of a file into the past, or with a negative number into the future."""
        stat = self.path(name).stat()
        os.utime(self.path(name), (stat.st_atime, stat.st_mtime - seconds))

    # running

    def plan(self, *arguments: str, target: str = "smoke", overlay: bool = True) -> dict[str, int]:
        """{rule: number of jobs} that the next run would run. Refuses anything but a plan that worked."""
        code, text = self.dry_run(*arguments, target=target, overlay=overlay)
        assert code == 0, text
        return {rule: count for rule, count in jobs(text).items() if rule != target}

    def dry_run(self, *arguments: str, target: str = "smoke", overlay: bool = True) -> tuple[int, str]:
        """Exit status and output of a dry run."""
        log = self.root / "plan.txt"
        argv = ["--dry-run", "--quiet", "host", *_overlay(overlay), *arguments, "--", target]
        process = forks.Process(target=_snakemake, args=(str(self.root), argv, str(log)))
        process.start()
        process.join()
        return process.exitcode or 0, log.read_text()

    def command(self, *arguments: str, target: str = "smoke", overlay: bool = True) -> list[str]:
        """The command line of a real run."""
        return [sys.executable, "-m", "snakemake", "--quiet", "host", *_overlay(overlay), *arguments, "--", target]

    def start(self, *arguments: str, target: str = "smoke", **environment: str) -> subprocess.Popen[str]:
        """A real run in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments, target=target),
            cwd=self.root,
            env=environ() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, target: str = "smoke", expect: int = 0, **environment: str) -> str:
        """The output of a real run, which must end with the status `expect`."""
        process = self.start(*arguments, target=target, **environment)
        text, _ = process.communicate()
        assert process.returncode == expect, text + self.logs()
        return text

    def kill_when(self, ready: Callable[[], bool], *arguments: str, target: str = "smoke") -> None:
        """Start a real run and kill it and all its children, as a power cut would, once `ready`."""
        process = self.start(*arguments, target=target)
        until = time.monotonic() + 120
        while not ready():
            assert process.poll() is None and time.monotonic() < until, "the run ended before it could be killed"
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def logs(self) -> str:
        """The ends of the logs of failed jobs."""
        logs = sorted(self.root.glob("logs/**/*.log"))
        return "".join(f"\n--- {p}\n{p.read_text()[-2000:]}" for p in logs if "Traceback" in p.read_text())

    def results(self) -> dict[str, bytes]:
        """{name: content} of all tables and tensors."""
        folder = self.root / "results"
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in folder.rglob("*")
            if p.suffix in (".csv", ".safetensors")
        }


def finished_once(folders: pytest.TempPathFactory, name: str, run: Callable[[Project], object]) -> Project:
    """A copy of the repository on which `run` was called; one for all workers of pytest-xdist. Never edit it."""
    base = folders.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    root, done = shared / f"finished_{name}" / "project", shared / f"finished_{name}.done"
    with FileLock(f"{root.parent}.lock"):
        if not done.exists():
            shutil.rmtree(root.parent, ignore_errors=True)  # of a worker whose run failed
            run(Project.of_repository(root))
            done.touch()
    return Project(root)


def finished_smoke(folders: pytest.TempPathFactory) -> Project:
    """The study of OVERLAY, run to its end; never edit it."""
    return finished_once(folders, "smoke", lambda p: p.run("--cores", "2", NEURALIGN_CHECK_CLOSURE="1"))


def jobs(text: str) -> dict[str, int]:
    """The table "Job stats" of Snakemake's output; nothing if there is nothing to do."""
    if "Job stats:" not in text:
        assert "Nothing to be done" in text, text
        return {}
    table = text.split("Job stats:")[1].split("\n\n")[0]
    counts = {name: int(count) for name, count in re.findall(r"^(\w\S*) +(\d+)$", table, re.MULTILINE)}
    assert counts.pop("total") == sum(counts.values()), text
    return counts


def environ() -> dict[str, str]:
    """The environment without the variables that would change a run."""
    return {k: v for k, v in os.environ.items() if not k.startswith(REMOVED)}


def _overlay(wanted: bool) -> list[str]:
    return ["--configfile", OVERLAY] if wanted else []


def _snakemake(folder: str, argv: list[str], log: str) -> None:
    """In a forked process: the command line of Snakemake."""
    assert not any(name.split(".")[0] == "neuralign" for name in sys.modules), (
        "the library must be imported from the copy"
    )
    os.chdir(folder)
    for name in os.environ.keys() - environ().keys():
        del os.environ[name]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.path[:] = [p for p in sys.path if not p.startswith(str(REPOSITORY / "lib"))]
    from snakemake.cli import main

    main(argv)
