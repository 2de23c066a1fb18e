"""The graph of jobs under test: what runs again after which change, and that runs survive being killed.

Every row of docs/reruns.md is one test here, and every such test one row there. A test edits a copy of a finished
study (tests/smoke.yaml) and asserts what the next run would do, job by job.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from workflow_project import OVERLAY, REPOSITORY, Project, jobs

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

NOTHING: dict[str, int] = {}
TABLES = {"tabulate": 1, "tabulate_claims": 1, "report": 1}
# the smoke study: seeds 1, 2, 3 and pairs 1-2, 1-3 in two regimes; `plain` with three methods, `hardened` with one
ALL = {"fetch_data": 1, "train_endpoint": 6, "align": 4, "signature": 4, "train_curve": 6, "evaluate": 8, "plot": 12}
ALL |= TABLES
MODELS = {rule: n for rule, n in ALL.items() if rule != "fetch_data"}
PLAIN = {"train_endpoint": 3, "align": 2, "signature": 2, "train_curve": 4, "evaluate": 6, "plot": 5} | TABLES
HARDENED = {"train_endpoint": 3, "align": 2, "signature": 2, "train_curve": 2, "evaluate": 2, "plot": 7} | TABLES
MATCHED = {
    "align": 4,
    "signature": 4,
    "train_curve": 4,
    "evaluate": 4,
    "plot": 12,
} | TABLES  # what follows an alignment
EVALUATIONS = {"evaluate": 8, "plot": 8} | TABLES

LR = "{epochs: 2, batch_size: 256, lr: 0.05, weight_decay: 5.0e-4"  # of the endpoints of `plain`
HARDENED_LR = "{epochs: 1, batch_size: 256, lr: 0.05, schedule"
ENDPOINT = "results/endpoints/small_digits/tiny/plain/1.safetensors"

Change = Callable[[Project], None]
ROWS: list[tuple[str, dict[str, int], Change]] = []


def row(title: str, again: dict[str, int]) -> Callable[[Change], Change]:
    """A row of docs/reruns.md: its first cell, and what the next run does after the change that follows."""

    def add(change: Change) -> Change:
        ROWS.append((title, again, change))
        return change

    return add


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    if os.environ.get("FINISHED"):
        return Project(Path(os.environ["FINISHED"]))
    """The smoke study, run to its end; never edited."""
    project = Project.of_repository(tmp_path_factory.mktemp("finished") / "project")
    project.run("--cores", "2", NEURALIGN_CHECK_CLOSURE="1")
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy of the finished study, to be edited."""
    return finished.copied(tmp_path / "project")


# ---- values in config.yaml


@row("A learning rate of a regime's endpoints", PLAIN)
def _(project):
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))


@row("A learning rate of the adversarially trained endpoints only", HARDENED)
def _(project):
    project.replace(OVERLAY, HARDENED_LR, HARDENED_LR.replace("0.05", "0.06"))


@row("A learning rate of a regime's curves", {"train_curve": 4, "evaluate": 4, "plot": 4} | TABLES)
def _(project):
    project.replace(OVERLAY, "lr: 0.02, weight_decay: 5.0e-4", "lr: 0.03, weight_decay: 5.0e-4")


@row("The strength of an attack that a regime trains with", HARDENED)
def _(project):
    project.replace(OVERLAY, "eps: 0.1", "eps: 0.05")


@row("Two values swapped, say `lr` and `weight_decay`", PLAIN)
def _(project):
    project.replace(OVERLAY, LR, "{epochs: 2, batch_size: 256, lr: 5.0e-4, weight_decay: 0.05")


@row("An option of an alignment", MATCHED)
def _(project):
    project.replace(OVERLAY, "{use: correlation, images: 256}", "{use: correlation, images: 300}")


@row("The number of points of an evaluation", {"evaluate": 6, "plot": 3} | TABLES)
def _(project):
    project.replace(OVERLAY, "brief: {points: 3", "brief: {points: 5")


@row("The pixel mean of a dataset", PLAIN)  # `hardened` does not normalise
def _(project):
    project.replace(OVERLAY, "size: 16, augment", "size: 16, mean: [0.3], std: [0.4], augment")


@row("An option of a dataset", ALL)
def _(project):
    project.replace(OVERLAY, "size: 16,", "size: 17,")


@row("An option of a network", MODELS)
def _(project):
    project.replace(OVERLAY, "{use: tinyten, width: 2}", "{use: tinyten, width: 3}")


@row("An override that applies here", PLAIN)
def _(project):
    project.replace(
        OVERLAY, "  plain:\n", "  plain:\n    overrides: [{when: {network: tiny}, endpoint: {momentum: 0.8}}]\n"
    )


@row("An override for something else", NOTHING)
def _(project):
    project.replace(
        OVERLAY, "  plain:\n", "  plain:\n    overrides: [{when: {network: resnet32}, endpoint: {lr: 0.8}}]\n"
    )


@row("An entry that this study does not use", NOTHING)
def _(project):
    project.replace("config.yaml", "epochs: 250", "epochs: 251")


@row("The order of keys", NOTHING)
def _(project):
    project.replace(OVERLAY, "{epochs: 2, batch_size: 256, lr: 0.05,", "{lr: 0.05, batch_size: 256, epochs: 2,")


@row("Another spelling of the same number: `1.0` for `1`, `26/100` for `0.26`", NOTHING)
def _(project):
    project.replace(OVERLAY, "curve: {epochs: 1, ", "curve: {epochs: 1.0, ", count=2)
    project.replace(OVERLAY, "eps: 0.1", "eps: 1/10")


@row("A default value spelled out", NOTHING)
def _(project):
    project.replace(OVERLAY, LR, LR + ", momentum: 0.9, nesterov: true, precision: float32")


# ---- studies


@row("A method added to a study", {"evaluate": 2, "plot": 3} | TABLES)
def _(project):
    project.replace(OVERLAY, "methods:\n", "methods:\n  straight: {alignment: matched, curve: linear}\n")
    project.replace(OVERLAY, "[linear_unaligned, smoke_none,", "[linear_unaligned, straight, smoke_none,")


@row("A method removed from a study", {"plot": 4} | TABLES)
def _(project):
    project.replace(OVERLAY, "smoke_none, smoke_matched]", "smoke_matched]")


@row(
    "A pair added to a study",
    {"train_endpoint": 1, "align": 1, "signature": 1, "train_curve": 2, "evaluate": 3, "plot": 5} | TABLES,
)
def _(project):
    plain = "pair: [1-2, 1-3]\n        curve_seed: [1, 2]\n        method: [linear"
    project.replace(OVERLAY, plain, plain.replace("1-3]", "1-3, 2-4]").replace("[1, 2]", "[1, 2, 3]"))


@row("The seed of one pair's curves", {"train_curve": 2, "evaluate": 2, "plot": 4} | TABLES)
def _(project):
    plain = "curve_seed: [1, 2]\n        method: [linear"
    project.replace(OVERLAY, plain, plain.replace("[1, 2]", "[1, 5]"))


@row("The title of a study", {"report": 1})
def _(project):
    project.replace(OVERLAY, "title: A smoke test", "title: Another title")


# ---- code


@row("Code that evaluates", EVALUATIONS)
def _(project):
    project.append("lib/neuralign/metrics.py", "\nNEW = 1\n")


@row("Code of an alignment", MATCHED)
def _(project):
    project.append("lib/neuralign/align/correlation.py", "\nNEW = 1\n")


@row("Code of a schedule that one regime uses", PLAIN)
def _(project):
    project.append("lib/neuralign/schedules/halving.py", "\nNEW = 1\n")


@row("Code of an attack", HARDENED)
def _(project):
    project.append("lib/neuralign/attacks/pgd.py", "\nNEW = 1\n")


@row("Code of a network", MODELS)
def _(project):
    project.append("lib/neuralign/networks/tinyten.py", "\nNEW = 1\n")


@row("Code of a dataset", ALL)
def _(project):
    project.append("lib/neuralign/data/digits.py", "\nNEW = 1\n")


@row("Code of a figure", {"plot": 8, "report": 1})
def _(project):
    project.append("lib/neuralign/figures/path.py", "\nNEW = 1\n")


@row("Code of the tables", {"tabulate": 1, "plot": 12, "report": 1})  # figures take names and order from it
def _(project):
    project.append("lib/neuralign/summary.py", "\nNEW = 1\n")


@row("A script", EVALUATIONS)
def _(project):
    project.append("scripts/evaluate.py", "\nNEW = 1\n")


@row("The report's template", {"report": 1})
def _(project):
    project.append("lib/neuralign/report.html", "<!-- new -->\n")


@row("The published numbers", TABLES)
def _(project):
    project.append("lib/neuralign/published.csv", "\n")


@row("Code with an old modification time, as `rsync -t` or `tar` leave it", EVALUATIONS)
def _(project):
    for name in ("scripts/evaluate.py", "lib/neuralign/evaluation.py"):
        project.append(name, "\nNEW = 1\n")
        project.age(name, 1e6)


@row("Code that checks the config, plans or counts", NOTHING)
def _(project):
    for name in ("config", "workflow", "recipes", "schemas", "code"):
        project.append(f"lib/neuralign/{name}.py", "\nNEW = 1\n")


@row("A comment, a docstring, white space", NOTHING)
def _(project):
    project.append("lib/neuralign/training.py", "\n\n# a comment\n")
    project.replace("lib/neuralign/schedules/halving.py", '"""Step decay', '"""A step decay')
    project.append("scripts/evaluate.py", "\n\n\n# another\n")


@row("A new module that nothing uses, a new plug-in", NOTHING)
def _(project):
    project.append("lib/neuralign/unused.py", "NEW = 1\n")
    project.append(
        "lib/neuralign/attacks/noise.py", '"""Noise."""\n\n\ndef noise(predict, x, y, generator):\n    return x\n'
    )


@row("The README", NOTHING)
def _(project):
    project.append("README.md", "\nMore.\n")


@row("Code that is only touched, as `git checkout` does", NOTHING)
def _(project):
    for path in (*project.root.glob("scripts/*.py"), *project.root.glob("lib/**/*.py"), project.path("Snakefile")):
        path.touch()


@row("Another branch checked out and back", NOTHING)
def _(project):
    main, branch = project.path("lib"), project.path("branch")
    shutil.copytree(main, branch)
    main.rename(project.path("main"))
    branch.rename(main)
    project.append("lib/neuralign/training.py", "\nNEW = 1\n")
    assert project.plan() == MODELS
    shutil.rmtree(main)
    project.path("main").rename(main)


@row("Another version of torch", MODELS)
def _(project):
    _pretend(project, "torch", "99.0")


@row("Another version of matplotlib, pandas, Snakemake", NOTHING)
def _(project):
    for package in ("matplotlib", "pandas", "snakemake-executor-plugin-slurm"):
        _pretend(project, package, "99.0")


def _pretend(project, package, version):
    """Another version of a package, as importlib.metadata sees it."""
    folder = project.path(f"lib/{package}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


# ---- how it is run


@row("Cores, threads, memory, GPUs, a profile", NOTHING)
def _(project):
    for path in project.root.glob("rules/*.smk"):
        text = path.read_text()
        path.write_text(text.replace("mem_mb=8000", "mem_mb=9000").replace("threads: 1", "threads: 2"))
    project.replace("profiles/default/profile.yaml", "cores: all", "cores: 3")


@row("The command line of a rule", NOTHING)
def _(project):
    for path in project.root.glob("rules/*.smk"):
        path.write_text(path.read_text().replace('"{params.command} > {log} 2>&1"', '"{params.command}  2> {log}"'))


@row("An environment file", NOTHING)
def _(project):
    project.append("envs/neuralign.yaml", "# new\n")


# ---- files under results/ and Snakemake's records


@row("A result that is only touched", NOTHING)
def _(project):
    for name in ("results/data/small_digits.safetensors", ENDPOINT):
        project.age(name, -100)


@row("A result written anew with the same content", NOTHING)
def _(project):
    content = project.path(ENDPOINT).read_bytes()
    project.path(ENDPOINT).unlink()
    project.path(ENDPOINT).write_bytes(content)


@row("A result overwritten with other content", {k: n for k, n in PLAIN.items() if k != "train_endpoint"})
def _(project):
    shutil.copy(project.path(ENDPOINT.replace("/1.", "/3.")), project.path(ENDPOINT))


@row("A result deleted that only other results were made from", NOTHING)
def _(project):
    project.path(ENDPOINT).unlink()


@row(
    "A result deleted that must be made again for something else",
    {"train_endpoint": 1, "align": 2, "signature": 4, "train_curve": 4, "evaluate": 6, "plot": 6} | TABLES,
)
def _(project):
    project.path(ENDPOINT).unlink()
    project.append("scripts/signature.py", "\nNEW = 1\n")


@row("The report deleted", {"report": 1})
def _(project):
    project.path("results/studies/smoke/report.html").unlink()


@row("A log deleted", NOTHING)
def _(project):
    shutil.rmtree(project.path("logs"))


@row("Recipes deleted", NOTHING)
def _(project):
    shutil.rmtree(project.path("results/recipes"))


@row("Notes deleted", NOTHING)
def _(project):
    for path in project.root.glob("results/*/**/*.json"):
        if "recipes" not in path.parts:
            path.unlink()


@row("Snakemake's records deleted", NOTHING)
def _(project):
    shutil.rmtree(project.path(".snakemake"))


@row("Snakemake's records and the recipes deleted", NOTHING)
def _(project):
    shutil.rmtree(project.path(".snakemake"))
    shutil.rmtree(project.path("results/recipes"))


@row("Snakemake's records deleted, then a learning rate changed", PLAIN)
def _(project):
    shutil.rmtree(project.path(".snakemake"))
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))


@row("Results copied to another folder, whatever became of their times", NOTHING)
def _(project):
    shutil.rmtree(project.path(".snakemake"))
    files = sorted(p for p in project.path("results").rglob("*") if p.is_file())
    for i, path in enumerate(files):
        os.utime(path, (1.8e9 + i, 1.8e9 + i))
    assert project.plan() == NOTHING
    for i, path in enumerate(reversed(files)):
        os.utime(path, (1.7e9 + i, 1.7e9 + i))


@row("Results copied to another folder where a learning rate is another", PLAIN)
def _(project):
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))
    shutil.rmtree(project.path(".snakemake"))
    for i, path in enumerate(sorted(p for p in project.path("results").rglob("*") if p.is_file())):
        os.utime(path, (1.8e9 + i, 1.8e9 + i))


@row("Results of another config copied over these", PLAIN)
def _(project):
    """As if an older run had been fetched back: files, notes and recipes; Snakemake's records are of this run."""
    for path in project.root.glob("results/*/small_digits/tiny/plain/**/*.json"):
        if "recipes" not in path.parts:
            path.write_text(re.sub(r'"key": "\w+"', '"key": "0123456789abcdef0123"', path.read_text()))
            path.with_suffix("").touch()


@row("A value changed and changed back", NOTHING)
def _(project):
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))
    assert project.plan() == PLAIN
    project.replace(OVERLAY, LR.replace("0.05", "0.06"), LR)


@row("A value changed and changed back, Snakemake's records deleted", NOTHING)
def _(project):
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))
    shutil.rmtree(project.path(".snakemake"))
    assert project.plan() == PLAIN
    project.replace(OVERLAY, LR.replace("0.05", "0.06"), LR)


@row("A harmless change of code, then `snakemake --touch`", NOTHING)
def _(project):
    project.append("lib/neuralign/training.py", "\nNEW = 1\n")
    assert project.plan() == MODELS
    project.run("--cores", "1", "--touch")


@row("A value changed while the job it is for was running", {"report": 1})
def _(project):
    body = "    tables = ["
    wait = "    __import__('pathlib').Path('begun').touch()\n    __import__('time').sleep(5)\n"
    project.replace("scripts/report.py", body, wait + body)
    report = project.path("results/studies/smoke/report.html")
    process = project.start("--cores", "1")
    while not project.path("begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    project.replace(OVERLAY, "title: A smoke test", "title: Another title")
    assert project.plan() == {"report": 1}
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "A smoke test" in report.read_text()


@pytest.mark.parametrize(("again", "change"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_after_this_change_these_jobs_run_again(project, again, change):
    change(project)
    assert project.plan() == again
