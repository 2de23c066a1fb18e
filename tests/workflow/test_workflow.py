"""Which jobs run again after which change, that killed runs can be resumed, and what plans contain.

Every row of docs/reruns.md is one test here, and every such test one row there. A test edits a copy of a finished
study (tests/smoke.yaml) and asserts what the next run would do, job by job.
"""

import contextlib
import csv
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time

import pandas as pd
import pytest
import yaml
from rerun_table import NOTHING, RerunTable, page
from workflow_project import COHORTS, EVERYTHING, OVERLAY, REPOSITORY, Project, environ, finished_smoke, jobs

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

TABLES = {"tabulate": 1, "tabulate_claims": 1, "report": 1}
THEORY = {"tabulate_theory": 1}
# the smoke study: seeds 1, 2, 3 and pairs 1-2, 1-3 in two regimes; `plain` with three methods, `hardened` with one
ALL = {"fetch_data": 1, "train_endpoint": 6, "align": 4, "signature": 4, "train_curve": 6, "evaluate": 8, "plot": 18}
ALL |= {"plane": 4, "midpoint": 2, "bound": 2} | TABLES | THEORY
MODELS = {rule: n for rule, n in ALL.items() if rule != "fetch_data"}
PLAIN = {"train_endpoint": 3, "align": 2, "signature": 2, "train_curve": 4, "evaluate": 6, "plot": 5} | TABLES
HARDENED = {"train_endpoint": 3, "align": 2, "signature": 2, "train_curve": 2, "evaluate": 2, "plot": 13} | TABLES
HARDENED |= {"plane": 4, "midpoint": 2, "bound": 2} | THEORY
# what follows an alignment
MATCHED = {"align": 4, "signature": 4, "train_curve": 4, "evaluate": 4, "plot": 18} | TABLES | THEORY
MATCHED |= {"plane": 4, "midpoint": 2, "bound": 2}
EVALUATIONS = {"evaluate": 8, "plot": 9} | TABLES | THEORY
POINTS = {"evaluate": 6, "plot": 3} | TABLES
MEASURED = EVALUATIONS | {"plane": 4, "midpoint": 2, "plot": 14}  # all that runs a network to see how good it is

LR = "{epochs: 2, batch_size: 256, lr: 0.05, weight_decay: 5.0e-4"  # of the endpoints of `plain`
HARDENED_LR = "{epochs: 1, batch_size: 256, lr: 0.05, schedule"
ENDPOINT = "results/endpoints/small_digits/tiny/plain/1.safetensors"

ROWS = RerunTable()
row = ROWS.row


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The smoke study, run to its end; never edited."""
    return finished_smoke(tmp_path_factory)


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


@row("The number of points of an evaluation", POINTS)
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


@row("Code that evaluates", MEASURED)
def _(project):
    for name in ("evaluation/along_curve", "training/batch_norm"):
        project.append(f"lib/neuralign/{name}.py", "\nNEW = 1\n")


@row("Code of an alignment", MATCHED)
def _(project):
    project.append("lib/neuralign/alignment/algorithms/correlation.py", "\nNEW = 1\n")


@row("Code of a schedule that one regime uses", PLAIN)
def _(project):
    project.append("lib/neuralign/training/schedules/halving.py", "\nNEW = 1\n")


@row("Code of an attack", HARDENED)
def _(project):
    project.append("lib/neuralign/training/attacks/pgd.py", "\nNEW = 1\n")


@row("Code of a network", MODELS)
def _(project):
    project.append("lib/neuralign/networks/architectures/tinyten.py", "\nNEW = 1\n")


@row("Code of a dataset", ALL)
def _(project):
    project.append("lib/neuralign/datasets/sources/digits.py", "\nNEW = 1\n")


@row("Code of a figure", {"plot": 8, "report": 1})
def _(project):
    project.append("lib/neuralign/report/figures/path.py", "\nNEW = 1\n")


@row("Code of the tables", {"plot": 1} | TABLES | THEORY)  # one figure is drawn from a table
def _(project):
    project.append("lib/neuralign/report/summary.py", "\nNEW = 1\n")


@row("Labels and order of methods", {"plot": 18} | TABLES | THEORY)
def _(project):
    project.append("lib/neuralign/report/labels.py", "\nNEW = 1\n")


@row("A script", EVALUATIONS)
def _(project):
    project.append("scripts/evaluate.py", "\nNEW = 1\n")


@row("The report's template", {"report": 1})
def _(project):
    project.append("lib/neuralign/report/page/report.html", "<!-- new -->\n")


@row("The published numbers", TABLES)
def _(project):
    project.append("lib/neuralign/report/published.csv", "\n")


@row("Code with an old modification time, as `rsync -t` or `tar` leave it", MEASURED)
def _(project):
    for name in ("scripts/evaluate.py", "lib/neuralign/training/batch_norm.py"):
        project.append(name, "\nNEW = 1\n")
        project.age(name, 1e6)


@row("Code that checks the config, plans or counts", NOTHING)
def _(project):
    for name in (
        "config/catalogue",
        "config/checking/check",
        "config/signatures",
        "workflow/graph",
        "workflow/provenance/recipes",
        "workflow/provenance/code_digests",
        "workflow/planning/costs",
    ):
        project.append(f"lib/neuralign/{name}.py", "\nNEW = 1\n")


@row("Code that runs jobs and deals out GPUs", NOTHING)
def _(project):
    running = ("run", "gpus", "notes", "failure", "termination")
    for name in [*(f"workflow/running/{n}" for n in running), "cli/commands/verify", "workflow/provenance/lineage"]:
        project.append(f"lib/neuralign/{name}.py", "\nNEW = 1\n")


@row("A comment, a docstring, white space", NOTHING)
def _(project):
    project.append("lib/neuralign/training/loop.py", "\n\n# a comment\n")
    project.replace("lib/neuralign/training/schedules/halving.py", '"""Step decay', '"""A step decay')
    project.append("scripts/evaluate.py", "\n\n\n# another\n")


@row("A new module that nothing uses, a new plug-in", NOTHING)
def _(project):
    project.create("lib/neuralign/evaluation/unused.py", "NEW = 1\n")
    project.create(
        "lib/neuralign/training/attacks/noise.py",
        '"""Noise."""\n\n\ndef noise(predict, x, y, generator):\n    return x\n',
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
    project.append("lib/neuralign/training/loop.py", "\nNEW = 1\n")
    assert project.plan() == MODELS
    shutil.rmtree(main)
    project.path("main").rename(main)


@row("Another version of torch", MODELS)
def _(project):
    install_metadata(project, "torch", "99.0")


@row("Another version of matplotlib, pandas, Snakemake", NOTHING)
def _(project):
    for package in ("matplotlib", "pandas", "snakemake-executor-plugin-slurm"):
        install_metadata(project, package, "99.0")


def install_metadata(project, package, version):
    """Make importlib.metadata report this version of a package."""
    folder = project.path(f"lib/{package}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


# ---- how it is run


@row("Cores, threads, memory, GPUs, a profile", NOTHING)
def _(project):
    project.replace("rules/common.smk", "needs(8000, minutes, gpu=1)", "needs(9000, minutes, gpu=2)")
    project.replace("rules/job.smk", "    resources:\n", "    threads: 2\n    resources:\n")
    project.replace("rules/curves.smk", 'training("train_curve", minutes=720)', 'training("train_curve", minutes=730)')
    project.replace("profiles/default/profile.yaml", "cores: all", "cores: 3")


@row("The command line of a rule", NOTHING)
def _(project):
    project.replace("rules/job.smk", '"{params.command} > {log} 2>&1"', '"{params.command}  2> {log}"')


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


@row("A result deleted, then a value it was made from changed and changed back", NOTHING)
def _(project):
    project.path(ENDPOINT).unlink()
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))
    assert project.plan() == PLAIN
    project.replace(OVERLAY, LR.replace("0.05", "0.06"), LR)


@row("Half of a job's results deleted, and a learning rate changed", PLAIN)
def _(project):
    project.path(ENDPOINT.replace(".safetensors", ".history.csv")).unlink()
    project.replace(OVERLAY, LR, LR.replace("0.05", "0.06"))


@row("Results copied to another folder without the data and the trained networks", NOTHING)
def _(project):
    shutil.rmtree(project.path(".snakemake"))
    for folder in ("data", "endpoints", "alignments", "curves", "recipes"):
        shutil.rmtree(project.path("results") / folder)


@row("The data deleted, and the number of points of an evaluation changed", {"fetch_data": 1, **POINTS})
def _(project):
    shutil.rmtree(project.path("results/data"))
    project.replace(OVERLAY, "brief: {points: 3", "brief: {points: 5")


@row("The report deleted", {"report": 1})
def _(project):
    project.path("results/studies/smoke/report.html").unlink()


@row("A table deleted", TABLES)
def _(project):
    project.path("results/studies/smoke/tables/robust.csv").unlink()


@row("A figure deleted", {"plot": 1, "report": 1})
def _(project):
    next(project.path("results/studies/smoke/figures").glob("*.png")).unlink()


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
    project.append("lib/neuralign/training/loop.py", "\nNEW = 1\n")
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


@pytest.mark.parametrize(("again", "change"), **ROWS.cases)
def test_after_this_change_these_jobs_run_again(project, again, change):
    change(project)
    assert project.plan() == again


def test_the_documented_table_has_these_rows():
    """docs/reruns.md and the tests above say the same, in the same order."""
    assert page(0) == ROWS.documented


# ---- real runs


def test_a_second_run_has_nothing_to_do(project):
    assert "Nothing to be done" in project.run("--cores", "1")


def test_a_dry_run_in_a_forked_process_plans_what_a_real_command_plans(project):
    project.replace(OVERLAY, "points: 3, batch_size: 512, images: 256}", "points: 4, batch_size: 512, images: 256}")
    text = project.run("--cores", "1", "--dry-run")
    assert jobs(text) == project.plan() | {"smoke": 1} and "updated input files" in text.lower()


def test_a_killed_run_can_be_resumed_and_has_the_results_of_a_run_on_more_cores(finished, tmp_path):
    project = Project.of_repository(tmp_path / "elsewhere")
    project.kill_when(lambda: list(project.root.glob("results/.scratch/*/")), "--cores", "1")
    assert not list(project.root.glob("results/endpoints/**/*.safetensors")), "killed while training"
    assert "--unlock" in project.run("--cores", "1", expect=1)
    project.run("--unlock")
    table = "results/studies/smoke/tables/accuracy.csv"  # planes, figures and the report: test_kills.py
    project.run("--cores", "1", target=table)
    results, expected = project.results(), finished.results()
    assert len(results) > 30 and results == {name: expected[name] for name in results}
    assert project.plan(target=table) == NOTHING and not list(project.root.glob("results/.scratch/*"))


def test_after_a_failure_results_of_old_settings_are_not_up_to_date(project):
    """Snakemake alone says "Nothing to be done": the failed job's old output is gone, the table made from it is not."""
    project.replace(OVERLAY, HARDENED_LR, HARDENED_LR.replace("0.05", "1e30"))
    text = project.run("--cores", "1", expect=1)
    assert "the loss is not finite in epoch 1" in text and "this job alone" in text
    assert project.path("results/studies/smoke/tables/robust.csv").exists()
    assert project.plan() == HARDENED
    project.replace(OVERLAY, "1e30", "0.06")
    assert project.plan() == HARDENED
    project.replace(OVERLAY, "lr: 0.06, schedule", "lr: 0.05, schedule")
    assert project.plan() == NOTHING, "the tables are those of the old settings, which are the current ones again"


def test_after_a_failure_a_separate_report_of_the_finished_part_says_that_it_is_incomplete(project):
    code, text = project.dry_run(target="smoke_incomplete")
    assert code == 1 and "nothing of the study smoke is missing: ask for smoke" in text
    project.replace(OVERLAY, HARDENED_LR, HARDENED_LR.replace("0.05", "1e30"))
    project.run("--cores", "1", "--keep-going", expect=1)
    project.run("--cores", "1", target="smoke_incomplete")
    page = project.path("results/studies/smoke_incomplete/report.html").read_text()
    assert "<title>Incomplete: A smoke test</title>" in page and "6 of its 8 paths are on this page." in page
    assert page.count("train_endpoint: dataset small_digits, network tiny, regime hardened, seed ") == 3
    assert page.count("failed: neuralign.training.progress.Diverged: the loss is not finite in epoch 1, step ") == 3
    assert "not finished" not in project.path("results/studies/smoke/report.html").read_text()
    assert project.plan(target="smoke_incomplete") == NOTHING


def test_finished_results_have_no_problems_and_a_number_can_be_traced_to_the_data(finished):
    table = "results/studies/smoke/tables/accuracy.csv"
    command = [sys.executable, "-m", "neuralign", "verify", "results", "--configfile", OVERLAY]
    command += ["--trace", table, "--where", "method=smoke_matched", "regime=hardened"]
    environment = {"PYTHONPATH": str(finished.path("lib"))}
    verified = subprocess.run(command[:7], cwd=finished.root, env=environment, capture_output=True, text=True)
    assert verified.returncode == 0 and "no problems" in verified.stdout, verified.stdout + verified.stderr
    assert "not compared" not in verified.stdout
    traced = subprocess.run(command, cwd=finished.root, env=environment, capture_output=True, text=True)
    rules = [line.split(": ")[-1].split()[0] for line in traced.stdout.splitlines() if line.endswith("  ok")]
    expected = {"tabulate": 1, "evaluate": 2, "train_curve": 2, "align": 2, "train_endpoint": 3, "fetch_data": 1}
    assert {rule: rules.count(rule) for rule in rules} == expected, traced.stdout


# ---- plans


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Project:
    """The workflow without results, where importing torch is an error."""
    project = Project.of_repository(tmp_path_factory.mktemp("fresh") / "project")
    for name in ("torch", "matplotlib", "pandas", "sklearn", "scipy"):
        project.create(f"lib/{name}.py", f"raise AssertionError('planning imported {name}')\n")
    return project


def test_the_paper_is_planned_without_torch(fresh):
    standard, robust = 3 * (3 * 3), 3 * (2 * 3)  # pairs of (data sets x networks)
    pam, criteria, attacked = 2 * 3 * (3 * 2), 5 * 3, 3  # from both starts; on one setting; robust, on attacked images
    assert (
        fresh.plan(target="paper", overlay=False)
        == {
            "fetch_data": 3,
            "train_endpoint": 2 * (standard + robust),
            "align": standard + robust + pam + criteria + attacked,
            "signature": standard + robust + attacked,
            "train_curve": 2 * (standard + robust) + pam + criteria + attacked,  # unaligned and aligned, and the others
            "evaluate": 4 * (standard + robust) + pam + criteria + attacked,  # and the straight lines
            "midpoint": 2 * standard,
            "bound": 2 * standard + pam + criteria,
            "plot": 6 + 9 + 1,
        }
        | TABLES
        | THEORY
    )


def test_the_paper_figures_have_every_plane(fresh):
    planned = fresh.plan(target="paper_figures", overlay=False)
    assert (planned["plane"], planned["train_curve"], planned["midpoint"]) == (27 + 54, 54, 54)


def test_a_plan_has_a_message_for_each_job(fresh):
    path = "results/evaluations/small_digits/tiny/hardened/1-3/matched/bezier/2/brief.csv"
    code, text = fresh.dry_run(target=path)
    assert code == 0, text
    messages = re.findall(r"^Job \d+: (.*)$", text, re.MULTILINE)
    pair = "the pair 1-3 of tiny on small_digits (hardened)"
    curve = f"the curve bezier, seed 2, of {pair}, aligned by matched"
    assert set(messages) == {
        "Fetch the dataset small_digits",
        "Train tiny on small_digits (hardened), seed 1",
        "Train tiny on small_digits (hardened), seed 3",
        f"Align {pair} by matched",
        f"Train {curve}",
        f"Evaluate {curve} (evaluation brief)",
    }


def test_the_demo_is_planned(fresh):
    assert (
        fresh.plan(target="demo", overlay=False)
        == {
            "fetch_data": 1,
            "train_endpoint": 12,
            "align": 6,
            "signature": 6,
            "train_curve": 12,
            "evaluate": 24,
            "plot": 14,
        }
        | TABLES
    )


@pytest.mark.parametrize("study", yaml.safe_load((REPOSITORY / "config.yaml").read_text())["studies"])
def test_every_shipped_study_can_be_planned_without_torch(fresh, study):
    assert fresh.plan(target=study, overlay=False)["report"] == 1


def test_without_a_target_the_default_study_is_made(fresh):
    assert fresh.plan(target="all") == ALL


def test_a_second_study_of_the_same_curves_needs_only_figures_tables_and_report(project):
    study = project.path(OVERLAY).read_text().split("  smoke:\n")[1]
    project.append(OVERLAY, "  again:\n" + study)
    assert project.plan(target="again") == {"plot": 18} | TABLES | THEORY


def test_several_results_of_a_missing_folder_can_be_planned(fresh):
    drawn = [f"results/studies/smoke/figures/{kind}_plain.png" for kind in ("accuracy", "loss")]
    code, text = fresh.dry_run("--cores", "1", drawn[0], target=drawn[1])
    assert code == 0, text
    assert "plot                  2" in text


def test_a_mistake_in_the_config_stops_before_anything_is_planned(project):
    project.replace(OVERLAY, LR, LR.replace("lr:", "lrr:"))
    code, text = project.dry_run()
    assert code == 1
    problem = r"regimes\.plain\.endpoint \(\S*smoke\.yaml, line \d+\): unknown key 'lrr'; did you mean 'lr'\?"
    assert re.search(problem, text)
    assert "the key 'lr' is missing" in text and "Traceback" not in text and "Job stats" not in text


@pytest.mark.parametrize("name", ["config.yaml", OVERLAY])
def test_a_duplicate_key_stops_before_anything_is_planned(fresh, tmp_path, name):
    project = fresh.copied(tmp_path / "project")
    project.append(name, "\nstudies: {}\n")
    code, text = project.dry_run()
    assert code == 1 and f"{project.path(name)}, line " in text and "the key 'studies' occurs twice" in text
    assert "Traceback" not in text and "Job stats" not in text


@pytest.mark.parametrize("target", ["smoke", "smoke_incomplete", "results/studies/smoke/tables/accuracy.csv"])
def test_missing_local_data_stop_the_plan_with_their_key_and_line(fresh, tmp_path, target):
    project = fresh.copied(tmp_path / "project")
    project.replace(OVERLAY, "{use: digits, size: 16,", "{use: npz, path: nowhere.npz,")
    code, text = project.dry_run(target=target)
    problem = r"datasets\.small_digits\.path \(\S*smoke\.yaml, line \d+\): found 'nowhere\.npz': no such file or folder"
    assert code == 1 and re.search(problem, text) and "Job stats" not in text
    code, text = project.dry_run(target="demo")  # another study, which does not read these data
    assert code == 0, text


def test_a_run_that_ends_before_its_first_job_makes_no_report_of_finished_paths(tmp_path):
    project = Project.of_repository(tmp_path / "project")
    command = [sys.executable, "-m", "neuralign", "run", "smoke", "--configfile", OVERLAY, "--", "--no-such-option"]
    environment = environ() | {"PYTHONPATH": str(project.path("lib"))}
    run = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == "failed; the messages above say where\n"
    assert run.stderr.count("no-such-option") == 1, run.stderr


def test_every_alignment_of_the_catalogue_runs_from_endpoints_to_report(project):
    project.run("--cores", "2", "--configfile", OVERLAY, EVERYTHING, target="everything")
    with project.path("results/studies/everything/tables/accuracy.csv").open(newline="") as file:
        methods = {row["method"] for row in csv.DictReader(file)}
    catalogue = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["methods"]
    assert methods >= {name for name in catalogue if name.startswith(("aligned_", "pam_"))} | {"endpoints"}
    assert "fgsm" in project.path("results/studies/everything/tables/robust.csv").read_text()


def test_networks_are_merged_in_pairs_and_by_every_alignment_of_a_cohort(project):
    project.run("--cores", "2", "--configfile", OVERLAY, COHORTS, target="merged")
    with project.path("results/studies/merged/tables/cohorts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    entries = yaml.safe_load((REPOSITORY / COHORTS).read_text())["cohorts"]
    assert [(row["members"], row["cohort"]) for row in rows] == [("1-2-3", name) for name in entries]
    for row in rows:
        reads_images = row["cohort"] == "to_first"
        assert bool(float(row["images_read"])) == reads_images and float(row["certificate"]) < 1e-9
        assert reads_images or float(row["agreement"]) > float(row["agreement_before"])
    pairs = pd.read_csv(project.path("results/studies/merged/tables/merges.csv")).set_index(["alignment", "attack"])
    assert list(pairs.index) == [(a, attack) for a in ("none", "matched") for attack in ("clean", "fgsm")]
    assert (pairs["reads"].xs("none") == "nothing").all() and (pairs["reads"].xs("matched") == "images").all()
    assert pairs.loc[("matched", "clean"), "moved"] > 0 == pairs.loc[("none", "clean"), "moved"]
    accuracies = [c for c in pairs if c.endswith("_accuracy")]
    named = ["ends", "ensemble", "mean", "reset", "doubly", "closed_form", "bias"]
    assert set(accuracies) == {f"{name}_accuracy" for name in named}
    assert pairs.xs("clean", level=1)[accuracies].notna().all(axis=None)
    assert (
        pairs.xs("fgsm", level=1)["barrier"].isna().all() and pairs.xs("fgsm", level=1)["mean_accuracy"].notna().all()
    )
    report = project.path("results/studies/merged/report.html").read_text()
    assert "One network out of several" in report and "One network out of two" in report


# ---- rules, environment and lock file


def test_the_rule_that_others_inherit_from_is_refused_as_a_target(fresh):
    code, text = fresh.dry_run(target="job")
    assert code == 1 and "`job` makes no file, the other rules only inherit from it: ask for a study or a file" in text


def test_the_list_of_rules_says_what_each_makes(fresh):
    command = [sys.executable, "-m", "snakemake", "--list"]
    rules = subprocess.run(command, cwd=fresh.root, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "align (The permutation of a pair's second network that aligns it with the first.)" in rules
    assert [rule for rule in rules if rule.startswith("job ")] == [
        "job (The rule that the other rules inherit from. It makes no file.)"
    ]


def test_the_linter_of_snakemake_finds_nothing(fresh):
    command = [sys.executable, "-m", "snakemake", "--lint"]
    checked = subprocess.run(command, cwd=fresh.root, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_snakefiles_are_formatted():
    files = ["Snakefile", "rules", "lib/neuralign/cli/study_folder/Snakefile"]
    command = [sys.executable, "-m", "snakefmt", "--check", *files]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_run_has_a_view_on_a_terminal_and_lines_elsewhere(project):
    """`neuralign run` draws a figure and writes the report on a terminal of 70 columns, and again into a pipe."""
    command = [sys.executable, "-m", "neuralign", "run", "smoke", "--cores", "2", "--configfile", OVERLAY]
    environment = environ() | {"PYTHONPATH": str(project.path("lib")), "TERM": "xterm"}
    figure = next(project.path("results/studies/smoke/figures").glob("*.png"))
    figure.unlink()
    status, text = run_on_terminal(command, project.root, environment, columns=70)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert status == 0 and plain.startswith("Study smoke: A smoke test.")
    (_, *views, end) = re.split(r"\x1b\[\d+F\x1b\[J", plain)
    assert "smoke  0 of 2 jobs done" in plain and "> Draw the figure " in plain and views
    drawn = [line for view in views for line in view.splitlines() if line.startswith(("smoke  ", "  ", "> "))]
    assert max(map(len, drawn)) < 70  # messages of Snakemake, such as on files that are late, stand above the view
    assert end.startswith("2 jobs done in ") and "report: results/studies/smoke/report.html" in end
    figure.unlink()
    run = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "\x1b" not in run.stderr, run.stderr
    lines = [re.sub(r"^[\d:]{8}  ", "", line) for line in run.stderr.splitlines()]
    assert "2 jobs to do: 1 plot, 1 report" in lines
    assert [line.split()[0] for line in lines if line.startswith(("start ", "done "))] == ["start", "done"] * 2
    assert any(
        re.fullmatch(r"done    Write the report of the study smoke  \(.*\)  2 of 2  nearly done", x) for x in lines
    )


def run_on_terminal(command, folder, environment, columns):
    """(exit status, all output) of a command whose streams are a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    output = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while part := os.read(ours, 65536):
            output += part
    os.close(ours)
    return process.wait(), output.decode().replace("\r\n", "\n")
