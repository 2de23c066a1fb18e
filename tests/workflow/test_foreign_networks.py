"""Networks and checkpoints of the user in the workflow, and `neuralign connect`.

Every row of the second table of docs/reruns.md is one test here, as in test_workflow.py.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rerun_table import NOTHING, RerunTable, page
from safetensors.torch import load_file, save_file
from tiny import assert_same
from torch import nn
from workflow_project import FOREIGN, OVERLAY, Project, environ, finished_once

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

NETS = """from torch import nn

import layers


class Net(nn.Module):
    def __init__(self, num_classes, in_channels, width):
        super().__init__()
        self.first = layers.block(in_channels, width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.last(self.first(x).mean((2, 3)))
"""
LAYERS = """from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())
"""
METHODS = """from neuralign.alignment.algorithms.correlation import correlation
from neuralign.config.options import Count


def matched(problem, *, images: Count):
    return correlation(problem, images=images, read="post")
"""
TABLES = {"tabulate": 1, "tabulate_claims": 1, "report": 1}
ALL = {"import_endpoint": 2, "align": 1, "signature": 1, "train_curve": 1, "evaluate": 2, "plot": 5} | TABLES
ALIGNED = {"align": 1, "signature": 1, "train_curve": 1, "evaluate": 1, "plot": 5} | TABLES
ONE = ALL | {"import_endpoint": 1}

ROWS = RerunTable()
row = ROWS.row


def weights(seed: int) -> dict[str, torch.Tensor]:
    """A state of Net with 10 classes, 1 channel and width 3."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    return nn.ModuleDict({"first": first, "last": nn.Linear(3, 10)}).state_dict()


def write(folder: Path) -> None:
    """Write code and two checkpoints, as a user has them who has trained two networks."""
    folder.mkdir()
    (folder / "nets.py").write_text(NETS)
    (folder / "layers.py").write_text(LAYERS)
    (folder / "methods.py").write_text(METHODS)
    torch.save({"epoch": 7, "state_dict": {f"module.{n}": t for n, t in weights(1).items()}}, folder / "a.pt")
    save_file(weights(2), folder / "b.safetensors")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The study of tests/foreign.yaml, run to its end; never edited."""

    def run(project: Project) -> None:
        write(project.path("theirs"))
        project.run("--cores", "2", "--configfile", OVERLAY, FOREIGN, target="foreign", NEURALIGN_CHECK_CLOSURE="1")

    return finished_once(tmp_path_factory, "foreign", run)


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy of the finished study, to be edited."""
    return finished.copied(tmp_path / "project")


def plan(project: Project) -> dict[str, int]:
    return project.plan("--configfile", OVERLAY, FOREIGN, target="foreign")


def refused(project: Project) -> str:
    code, text = project.dry_run("--configfile", OVERLAY, FOREIGN, target="foreign")
    assert code == 1 and "Job stats" not in text
    return text


# ---- what runs again


@row("The file of a network of your own", ALL)
def _(project):
    project.replace("theirs/nets.py", "x).mean((2, 3))", "x).amax((2, 3))")


@row("A file beside it that it imports", ALL)
def _(project):
    project.replace("theirs/layers.py", "nn.ReLU()", "nn.GELU()")


@row("A file beside it that it does not import", NOTHING)
def _(project):
    project.create("theirs/train.py", "import nets\n")


@row("A comment in such a file", NOTHING)
def _(project):
    project.append("theirs/nets.py", "\n# that is all\n")


@row("The file of an alignment of your own", ALIGNED)
def _(project):
    project.replace("theirs/methods.py", '"post"', '"pre"')


@row("Code of this package that such a file imports", ALIGNED)
def _(project):
    project.append("lib/neuralign/alignment/algorithms/correlation.py", "\nNEW = 1\n")


@row("An option of a network of your own", ALL)
def _(project):
    project.replace(FOREIGN, "options: {width: 3}", "options: {width: 4}")


@row("The pixel mean of a network", ALL)
def _(project):
    project.replace(FOREIGN, "mean: [0.5]", "mean: [0.4]")


@row("A checkpoint file replaced by another", ONE)
def _(project):
    save_file(weights(3), project.path("theirs/b.safetensors"))
    project.age("theirs/b.safetensors", 1e6)


@row("A checkpoint file written anew with the same content, touched or copied", NOTHING)
def _(project):
    content = project.path("theirs/b.safetensors").read_bytes()
    project.path("theirs/b.safetensors").unlink()
    project.path("theirs/b.safetensors").write_bytes(content)


@row("A checkpoint file moved, and `file` with it", NOTHING)
def _(project):
    project.path("theirs/b.safetensors").rename(project.path("moved.safetensors"))
    project.replace(FOREIGN, "theirs/b.safetensors", "moved.safetensors")


@row("A checkpoint renamed in the config", ONE)
def _(project):
    project.replace(FOREIGN, "mine_b", "mine_c", count=2)


@row("The place inside a checkpoint file spelled out", ONE)
def _(project):
    project.replace(FOREIGN, "{file: theirs/a.pt}", "{file: theirs/a.pt, inside: state_dict.module}")


@pytest.mark.parametrize(("again", "change"), **ROWS.cases)
def test_after_this_change_these_jobs_run_again(project, again, change):
    change(project)
    assert plan(project) == again


def test_the_documented_table_has_these_rows():
    """docs/reruns.md and the tests above say the same, in the same order."""
    assert page(1) == ROWS.documented


# ---- what comes out


def test_an_imported_network_has_the_tensors_of_its_checkpoint_and_a_note(finished):
    assert_same(load_file(finished.path("results/endpoints/small_digits/theirs/plain/mine_a.safetensors")), weights(1))
    note = json.loads(finished.path("results/endpoints/small_digits/theirs/plain/mine_a.safetensors.json").read_text())
    assert note["settings"]["model"]["mean"] == [0.5] and note["settings"]["checkpoint"]["file"] == "theirs/a.pt"
    with finished.path("results/studies/foreign/tables/accuracy.csv").open(newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"endpoints", "linear_unaligned", "smoke_matched"}


def test_results_are_verified_down_to_the_checkpoints_that_they_come_from(project):
    def verified(*more):
        command = [sys.executable, "-m", "neuralign", "verify", "results", "--configfile", OVERLAY, FOREIGN, *more]
        environment = {"PYTHONPATH": str(project.path("lib"))}
        done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, text = verified("--trace", "results/studies/foreign/tables/accuracy.csv")
    assert code == 0 and "no problems" in text, text
    assert text.count("import_endpoint  ") == 2 and "not compared" not in text
    save_file(weights(3), project.path("theirs/b.safetensors"))
    code, text = verified()
    assert code == 1 and "out of date" in text and "theirs/plain/mine_b.safetensors" in text
    for name in ("a.pt", "b.safetensors"):
        project.path(f"theirs/{name}").unlink()
    code, text = verified()
    assert code == 0 and "not compared with the config and code" in text, text


def test_a_missing_checkpoint_or_class_stops_the_plan(project):
    project.path("theirs/a.pt").unlink()
    problem = r"checkpoints\.mine_a\.file \(\S*foreign\.yaml, line 6\): found 'theirs/a\.pt': no such file"
    assert re.search(problem, refused(project))
    project.replace("theirs/nets.py", "class Net", "class Network")
    assert "theirs/nets.py:Net: nets.py does not define 'Net'; did you mean 'Network'?" in refused(project)


def test_a_checkpoint_with_other_classes_fails_with_both_numbers(project):
    save_file(
        weights(1) | {"last.weight": torch.ones(7, 3), "last.bias": torch.ones(7)}, project.path("theirs/b.safetensors")
    )
    project.run("--cores", "1", "--configfile", OVERLAY, FOREIGN, target="foreign", expect=1)
    log = project.path("logs/endpoints/small_digits/theirs/plain/mine_b.log").read_text()
    assert "the file has 7 classes, the network 10" in log


# ---- the command


def test_connect_runs_the_workflow_on_two_checkpoints_and_resumes_a_killed_run(fresh, tmp_path):
    write(tmp_path / "mine")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"datasets": {"digits": {"size": 8}}}))
    command = [sys.executable, "-m", "neuralign", "connect", "mine/nets.py:Net", "mine/a.pt", "mine/b.safetensors"]
    command += ["--option", "width=3", "--data", "digits", "--epochs", "1", "--points", "3", "--out", "out", "--json"]
    command += ["--configfile", "small.yaml"]

    def run():
        environment = environ() | {"PYTHONPATH": str(fresh.path("lib"))}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    facts, text = run()
    assert re.search(r" 19 jobs to do: .*2 import endpoint, ", text) and "  done    " in text  # as `run`
    assert {r["method"] for r in facts["table"]} == {
        *("endpoints", "linear_unaligned", "linear_aligned", "unaligned", "aligned")
    }
    assert all(r["n_pairs"] == "1" for r in facts["table"])
    assert (tmp_path / facts["report"]).is_file() and (tmp_path / facts["config"]).is_file()
    again, text = run()
    assert again == facts and "Nothing to be done" in text
    locks = tmp_path / "out" / ".snakemake" / "locks"  # as a run leaves them that was killed outright
    locks.mkdir(exist_ok=True)
    for kind, path in (("input", "results/recipes/x.json"), ("output", "results/studies/connect/report.html")):
        (locks / f"0.{kind}.lock").write_text(path)
    for path in (tmp_path / "out" / "results" / "studies" / "connect").glob("report.html*"):
        path.unlink()
    again, _ = run()
    assert again == facts and not list(locks.glob("*"))


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A copy without results."""
    return Project.of_repository(tmp_path / "fresh")
