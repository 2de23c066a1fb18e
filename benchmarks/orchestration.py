"""Orchestration: time for planning, for a finished study and per job beside its work; which modules import torch.

Everything runs in a temporary folder. The finished study has made-up outputs, with their provenance notes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import Row, count, interleaved, limit, row
from neuralign.common.files import note_path, sha256
from neuralign.workflow.planning.estimator import read_notes

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted(p.stem for p in (REPOSITORY / "scripts").glob("*.py"))
# scripts that must not import torch
LIGHT = ("fetch_data", "plot", "report", "tabulate", "tabulate_claims", "tabulate_theory")
PLANNING = ("workflow.graph", "workflow.provenance.recipes", "workflow.planning.plan", "config.catalogue")
PLANNING += ("cli.commands.verify",)
DONE = "Nothing to be done"


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """The rows. They do not depend on the device."""
    repeats = 1 if quick else 5
    rows = _imports(LIGHT[:1] if quick else SCRIPTS, repeats)
    with tempfile.TemporaryDirectory() as folder:
        rows += _planning(Path(folder), "demo" if quick else "paper", repeats)
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_jobs(Path(folder)))
    return rows


def _planning(folder: Path, study: str, repeats: int) -> list[Row]:
    """Time for planning before any job has run, and for Snakemake's answer when all jobs have."""
    jobs = [0]

    def plan() -> None:
        jobs[0] = int(_snakemake(folder, "--dry-run", study).split("\ntotal")[1].split()[0]) - 1

    def ask() -> None:
        if DONE not in (text := _snakemake(folder, "--cores", "1", study)):
            raise RuntimeError(f"the made-up study is not finished for Snakemake: {text[-2000:]}")

    def cost() -> None:
        _run(folder, [sys.executable, "-m", "neuralign", "plan", study])

    planning, costs = interleaved(plan, cost, repeats=repeats, warm_up=repeats > 1)
    finish(folder)
    (done,) = interleaved(ask, repeats=repeats, warm_up=repeats > 1)
    note = f"{jobs[0]} jobs"
    return [
        limit(f"snakemake --dry-run {study}", ours=planning, target="<= 10", note=note),
        limit(f"neuralign plan {study}", ours=costs, target="<= 10", note=note),
        limit(f"snakemake {study}, everything done", ours=done, target="<= 5", note=note),
    ]


def finish(folder: Path) -> None:
    """Write made-up outputs with their notes for all recipes in `folder`, all with the same modification time."""
    now = time.time()
    for path in (folder / "results" / "recipes").rglob("*.json"):
        recipe = json.loads(path.read_text())
        note = {k: recipe[k] for k in ("rule", "wildcards", "key", "settings", "inputs", "upstream")}
        for output in recipe["outputs"].values():
            file = folder / output
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("made up\n")
            os.utime(file, (now, now))
            Path(note_path(file)).write_text(json.dumps(note | {"seconds": 1.0, "sha256": sha256(file)}))


def _jobs(folder: Path) -> Row:
    """The time that a run of the smoke study takes beside the work of its jobs, per job; one job at a time."""
    smoke = ["--cores", "1", "--configfile", str(REPOSITORY / "tests" / "smoke.yaml"), "--"]
    start = time.perf_counter()
    _snakemake(folder, *smoke, "smoke")
    total = time.perf_counter() - start
    done = read_notes(folder / "results")
    work = sum(note["seconds"] for note in done.values())
    text = f"{len(done)} jobs, {total:.0f} s in all, {work:.0f} s of it their work; Snakemake's start included"
    return limit("overhead of a job", ours=[(total - work) / len(done)], target="<= 3", note=text)


def _imports(names: Sequence[str], repeats: int) -> list[Row]:
    """Numbers of modules that import torch or torchvision without need, and the time until a training starts."""
    code = "print(*[m for m in ('torch', 'torchvision') if m in sys.modules])"
    planning = {f"neuralign.{name}": _python(f"import neuralign.{name}; {code}") for name in PLANNING}
    scripts = {name: _python(f"{_code_of(name)}; {code}") for name in names}
    imported = {**planning, **scripts}  # what each module imports of torch and torchvision
    heavy = [name for name, packages in imported.items() if packages and (name in LIGHT or name in planning)]
    vision = [name for name, packages in imported.items() if "torchvision" in packages.split()]
    torch, training = interleaved(
        lambda: _python("import torch"),
        lambda: _python(_code_of("train_endpoint")),
        repeats=repeats,
        warm_up=repeats > 1,
    )
    among = f"of {len(planning) + len(scripts)}"
    return [
        count("imports torch without need", len(heavy), target="<= 0", note=", ".join(heavy) or among),
        count("imports torchvision", len(vision), target="<= 0", note=", ".join(vision) or among),
        row("start of a training / import torch", baseline=torch, ours=training, note="whole processes"),
    ]


def _code_of(script: str) -> str:
    """Code that runs a script without its `main`."""
    return f"runpy.run_path('scripts/{script}.py')"


def _snakemake(folder: Path, *arguments: str) -> str:
    where = ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder), "--quiet", "host"]
    return _run(folder, [sys.executable, "-m", "snakemake", *where, *arguments])


def _python(code: str) -> str:
    return _run(REPOSITORY, [sys.executable, "-P", "-c", f"import runpy, sys; {code}"]).strip()


def _run(folder: Path, command: Sequence[str]) -> str:
    """The standard output and error of a command, which must succeed."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "lib")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr
