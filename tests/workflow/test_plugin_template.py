"""docs/plugin_template: it is built, installed, passes its own tests, and a study uses its plug-ins by their names."""

import csv
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the template, and a virtual environment that it is installed in without the network.

    The environment sees the packages of the tests' own.
    """
    folder = tmp_path_factory.mktemp("template")
    source = shutil.copytree(TEMPLATE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--isolated", "install", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", packages(folder), source]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages(folder) / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder


def packages(folder: Path) -> Path:
    (path,) = folder.glob("venv/lib/python*/site-packages")
    return path


def test_its_own_tests_pass_where_it_is_installed(folder: Path) -> None:
    command = [folder / "venv" / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "source/tests"]
    environment = environ() | {"PYTHONPATH": str(REPOSITORY / "lib")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_study_uses_them_and_an_edit_makes_due_what_was_made_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.of_repository(tmp_path / "project")
    shutil.copy2(TEMPLATE / "config.yaml", project.path(CONFIG))
    monkeypatch.setattr(sys, "executable", str(folder / "venv" / "bin" / "python"))  # of runs and their jobs
    project.run("--cores", "2", "--configfile", CONFIG, target="example", NEURALIGN_CHECK_CLOSURE="1")
    with project.path("results/studies/example/tables/accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"endpoints", "linear_unaligned", "ranked"}
    assert any(column.startswith("confidence") for column in rows[0])
    attack = packages(folder) / "neuralign_example" / "corner.py"
    attack.write_text(attack.read_text().replace("- 0.5", "- 0.4"))
    text = project.run("--cores", "1", "--dry-run", "--configfile", CONFIG, target="example")
    assert "evaluate " in text and "train_endpoint" not in text and "align " not in text
