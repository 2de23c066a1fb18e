"""Bundles of results: published from a finished study, and restored in a checkout that has computed nothing."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from workflow_project import OVERLAY, Project, environ, finished_smoke

from neuralign.cli import main
from neuralign.workflow.provenance.bundle import _first_difference
from neuralign.workflow.running.run_lock import exclusive

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

TABLES = {"tabulate": 1, "tabulate_claims": 1, "report": 1}
EVALUATIONS = {"evaluate": 6, "plot": 3} | TABLES
ENDPOINT = "endpoints/small_digits/tiny/plain/1.safetensors"
CURVE = "curves/small_digits/tiny/plain/1-2/matched/bezier/1.safetensors"
DATA = "results/data/small_digits.safetensors"
BUNDLE = "published/smoke"


def neuralign(project: Project, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command in a project, which uses the project's own code."""
    command = [sys.executable, "-m", "neuralign", *arguments, "--configfile", OVERLAY]
    environment = environ() | {"PYTHONPATH": str(project.path("lib"))}
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Project:
    """A checkout without results, with a bundle of the smoke study; never edited."""
    finished = finished_smoke(tmp_path_factory)
    source = finished.copied(tmp_path_factory.mktemp("source") / "project")
    status, text = neuralign(source, "publish", "smoke", "--to", BUNDLE)
    assert status == 0 and "results, " in text, text
    fresh = Project.of_repository(tmp_path_factory.mktemp("fresh") / "project")
    shutil.copytree(source.path("published"), fresh.path("published"))
    return fresh


@pytest.fixture
def project(published, tmp_path) -> Project:
    return published.copied(tmp_path / "project")


def restored(project: Project, *arguments: str) -> dict:
    status, text = neuralign(project, "restore", BUNDLE, "--json", *arguments)
    assert status == 0, text
    return json.loads(text)


def test_a_restored_study_has_nothing_to_do_and_no_dataset(project):
    outcome = restored(project)
    assert not outcome["left_out"] and not outcome["as_older"] and f"{ENDPOINT}" in outcome["copied"]
    assert project.plan() == {}
    assert not project.path("results/data").exists()
    status, text = neuralign(project, "verify", "results")
    assert (status, "no problems" in text) == (0, True), text
    again = restored(project)
    assert not again["copied"] and sorted(again["kept"]) == sorted(outcome["copied"])


def test_export_says_how_to_come_from_a_published_curve_to_one_with_its_data(project, capsys, monkeypatch):
    monkeypatch.chdir(project.root)
    assert main(["export", f"{BUNDLE}/{CURVE}", "-o", "best.pt"]) == 2
    error = capsys.readouterr().err
    assert f"CURVE: {BUNDLE}/{CURVE} is a published result" in error and f"name results/{CURVE}\n" in error
    restore, make_data = (shlex.split(command) for command in re.findall("`([^`]+)`", error))
    assert restore == ["neuralign", "restore", str(project.path(BUNDLE))]
    assert neuralign(project, *restore[1:])[0] == 0

    assert main(["export", f"results/{CURVE}", "-o", "best.pt"]) == 2
    error = capsys.readouterr().err
    assert f"{project.path(DATA)}, which the curve was trained with, does not exist; in {project.root}, " in error
    assert re.findall("`([^`]+)`", error) == [shlex.join(make_data)] == [f"snakemake --cores 1 {DATA}"]
    *options, target = make_data[1:]
    assert project.plan(*options, target=target) == {"fetch_data": 1}
    project.run(*options, target=target)
    assert project.plan() == {}, "the study has still nothing to do"
    assert main(["export", f"results/{CURVE}", "-o", "best.pt"]) == 0


def test_after_restoring_only_what_a_change_affects_is_computed(project):
    restored(project)
    project.replace(OVERLAY, "brief: {points: 3", "brief: {points: 5")
    assert project.plan() == {"fetch_data": 1} | EVALUATIONS
    project.run("--cores", "1", target="results/evaluations/small_digits/tiny/plain/1-2/none/bezier/1/brief.csv")
    assert project.plan() == EVALUATIONS | {"evaluate": 5}


def test_results_of_older_code_stand_for_those_of_the_present_code_and_say_so(project):
    project.append("lib/neuralign/training/loop.py", "\nNEW = 1\n")
    outcome = restored(project)
    older = set(outcome["as_older"])
    assert ENDPOINT in older and not outcome["left_out"]
    assert "signatures/small_digits/tiny/plain/1-2/matched.csv" in older  # made from an endpoint
    assert project.plan() == {}
    note = json.loads(project.path(f"results/{ENDPOINT}.json").read_text())
    before = json.loads(project.path(f"{BUNDLE}/{ENDPOINT}.json").read_text())
    assert note["restored_as"] != note["key"] == before["key"]
    assert {k: v for k, v in note.items() if k not in ("restored_as", "digest")} == {
        k: v for k, v in before.items() if k != "digest"
    }
    status, text = neuralign(project, "verify", "results")
    assert (status, "no problems" in text) == (0, True), text
    project.append("lib/neuralign/training/loop.py", "\nNEWER = 1\n")
    assert project.plan()["train_endpoint"] == 6  # they stand for one key, not for all
    assert older <= set(restored(project)["as_older"]) and project.plan() == {}


def test_what_the_config_has_changed_is_left_out_with_what_was_made_from_it(project):
    project.replace(OVERLAY, "{use: correlation, images: 256}", "{use: correlation, images: 300}")
    outcome = restored(project)
    reason = outcome["left_out"]["alignments/small_digits/tiny/plain/1-2/matched.safetensors"]
    assert reason == "method.images: 256 in the bundle, 300 in the config"
    assert "made from alignments/" in outcome["left_out"]["studies/smoke/tables/accuracy.csv"]
    assert ENDPOINT in outcome["copied"]
    plan = project.plan()
    assert plan["align"] == 4 and "train_endpoint" not in plan and plan["fetch_data"] == 1


def test_a_damaged_bundle_is_refused_and_nothing_written(project):
    with project.path(f"{BUNDLE}/{ENDPOINT}").open("ab") as file:
        file.write(b"x")
    status, text = neuralign(project, "restore", BUNDLE)
    assert status == 2 and f"{BUNDLE}: 1 of its files do not agree with their notes, such as {ENDPOINT}" in text
    assert not project.path("results/endpoints").exists()


def test_other_results_in_the_same_place_are_kept(project):
    restored(project)
    project.path(f"results/{ENDPOINT}").write_bytes(b"mine")
    status, text = neuralign(project, "restore", BUNDLE)
    assert status == 2 and f"holds 1 other results in the same places, such as {ENDPOINT}" in text
    assert project.path(f"results/{ENDPOINT}").read_bytes() == b"mine"


def test_nothing_is_restored_while_a_run_is_at_work(project):
    with exclusive(project.root):
        status, text = neuralign(project, "restore", BUNDLE)
    assert status == 2 and "another run is at work in" in text and not project.path("results/endpoints").exists()


def test_an_unfinished_study_is_published_only_on_demand(project):
    restored(project)
    os.unlink(project.path("results/studies/smoke/report.html"))
    os.unlink(project.path("results/studies/smoke/report.html.json"))
    status, text = neuralign(project, "publish", "smoke", "--to", "part")
    assert status == 2 and "smoke: 1 jobs are not finished in results, such as report smoke" in text
    assert not project.path("part").exists()
    status, text = neuralign(project, "publish", "smoke", "--to", "part", "--unfinished")
    assert status == 0 and "not finished, so not in it: 1 jobs, such as report smoke" in text
    assert project.path(f"part/{ENDPOINT}").exists() and not project.path("part/studies/smoke/report.html").exists()


def test_lists_that_differ_are_told_by_what_only_one_of_them_has():
    old, new = [{"pair": "1-2"}, {"pair": "3-4"}], [{"pair": "1-2"}, {"pair": "5-6"}, {"pair": "7-8"}]
    told = "1 only in the bundle, such as {'pair': '3-4'}, and 2 only in the config, such as {'pair': '5-6'}"
    assert _first_difference({"runs": old}, {"runs": new}) == f"runs: {told}"
    assert _first_difference({"runs": old[::-1]}, {"runs": old}) == "runs: another order"
    assert _first_difference({"runs": old}, {"runs": old}) is None
