"""docs/plugin_template: it is built, installed, passes its own tests, and a study uses its plug-ins by their names."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import REPOSITORY, Project, environ

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]
TEMPLATE = REPOSITORY / "docs" / "plugin_template"
CONFIG = "template.yaml"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the template's, built and installed without the network."""
    folder = tmp_path_factory.mktemp("template")
    source = shutil.copytree(TEMPLATE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    packages = folder / "site-packages"
    pip = [sys.executable, "-m", "pip", "--quiet", "--isolated", "install", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", packages, source]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return packages


@pytest.fixture
def project(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project.of_repository(tmp_path / "project")
    shutil.copy2(TEMPLATE / "config.yaml", project.path(CONFIG))
    shutil.copytree(installed, project.path("site-packages"))
    return project


def test_its_own_tests_pass_where_it_is_installed(installed: Path) -> None:
    paths = os.pathsep.join([str(REPOSITORY / "lib"), str(installed)])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(installed.parent / "source" / "tests"),
    ]
    done = subprocess.run(
        command, cwd=installed.parent, env=environ() | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_study_uses_them_and_an_edit_makes_due_what_was_made_with_it(project: Project) -> None:
    environment = {"PYTHONPATH": str(project.path("site-packages")), "NEURALIGN_CHECK_CLOSURE": "1"}
    project.run("--cores", "2", "--configfile", CONFIG, target="example", **environment)
    with project.path("results/studies/example/tables/accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"endpoints", "linear_unaligned", "ranked"}
    assert any(column.startswith("confidence") for column in rows[0])
    project.replace("site-packages/neuralign_example/corner.py", "- 0.5", "- 0.4")
    text = project.run("--cores", "1", "--dry-run", "--configfile", CONFIG, target="example", **environment)
    assert "evaluate " in text and "train_endpoint" not in text and "align " not in text
