"""The package without its repository: a wheel is built, installed elsewhere, and does a study in a folder of `init`.

The wheel is built and installed without the network: its dependencies are those of the environment of the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from workflow_project import OVERLAY, REPOSITORY, environ, jobs

from neuralign.cli import COMMANDS

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]
SOURCES = ("lib", "rules", "scripts", "envs", "profiles", "Snakefile", "config.yaml")
SOURCES += ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
GRID = {"dataset": "small_digits", "network": "tiny", "regime": "plain", "pair": "1-2", "curve_seed": 1}
GRID |= {"method": ["linear_unaligned", "smoke_matched"], "evaluation": "brief"}


class Environment(NamedTuple):
    """A virtual environment with the wheel installed, which sees the other packages of the tests' environment."""

    root: Path

    @property
    def package(self) -> Path:
        """The folder of the installed package."""
        (package,) = self.root.glob("lib/python*/site-packages/neuralign")
        return package

    def start(self, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, or `python -m`, in a folder outside of the repository."""
        name, *arguments = command
        program = self.root / "bin" / name
        start = [str(program)] if program.exists() else [str(self.root / "bin" / "python"), "-m", name]
        environment = environ() | {"PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        environment["NEURALIGN_CHECK_CLOSURE"] = "1"  # a job that imports a module outside of its recipe fails
        return subprocess.run([*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True)

    def run(self, folder: Path, *command: str) -> str:
        """Standard output of a program that must succeed."""
        done = self.start(folder, *command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def plan(self, folder: Path) -> dict[str, int]:
        """{rule: number of jobs} that the next plain `snakemake` in a folder would run."""
        done = self.start(folder, "snakemake", "--dry-run", "--quiet", "host")
        assert done.returncode == 0, done.stdout + done.stderr
        return {rule: count for rule, count in jobs(done.stdout + done.stderr).items() if rule != "all"}


def pip(*arguments: str, cwd: Path | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--isolated", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def build(source: Path, to: Path) -> Path:
    """The wheel built from a source distribution of a copy of the repository, as an upload to an index is."""
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, to], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = to.glob("*.tar.gz")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(to), str(archive))
    (wheel,) = to.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(
                REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy2(REPOSITORY / name, source)
    (source / "rules" / "new.smk").write_text('"""A file that was added since."""\n')
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    environment = Environment(root)
    pip("--python", str(root / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    others = [path for path in sys.path if path.endswith("-packages")]
    (environment.package.parent / "others.pth").write_text("\n".join(others))
    return environment


@pytest.fixture(scope="module")
def finished(installed: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `init` with a tiny config and all results of its default study; never edited."""
    folder = tmp_path_factory.mktemp("work") / "my study"
    installed.run(folder.parent, "neuralign", "init", folder.name)
    config = yaml.safe_load((REPOSITORY / OVERLAY).read_text())
    config["studies"] = {"smoke": {"title": "A smoke test", "grids": [GRID]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    text = installed.run(folder, "neuralign", "run")
    assert "report: results/studies/smoke/report.html" in text
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """The finished folder under another name, in another place."""
    return shutil.copytree(finished, tmp_path / "renamed", symlinks=True)


def test_the_wheel_holds_every_file_of_the_workflow(wheel):
    names = {name.removeprefix("neuralign/snakemake/") for name in zipfile.ZipFile(wheel).namelist()}
    folders = ("rules", "scripts", "envs", "profiles")
    files = [p for folder in folders for p in (REPOSITORY / folder).rglob("*") if p.suffix in (".py", ".smk", ".yaml")]
    needed = {str(path.relative_to(REPOSITORY)) for path in files} | {"Snakefile", "config.yaml", "rules/new.smk"}
    assert len(files) > 25 and needed <= names


def test_the_installed_package_is_not_that_of_the_repository(installed, tmp_path):
    code = "import neuralign.common.workflow_files as w; print(w.WORKFLOW, w.IS_CHECKOUT)"
    python = str(installed.root / "bin" / "python")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=True)
    assert done.stdout == f"{installed.package / 'snakemake'} False\n"


def test_every_command_has_help(installed, tmp_path):
    code = f"from neuralign.cli import main\nfor command in {list(COMMANDS)}: assert main([command, '--help']) == 0\n"
    python = str(installed.root / "bin" / "python")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("Usage: neuralign ") == len(COMMANDS), done.stderr


def test_init_does_not_overwrite(installed, finished):
    done = installed.start(finished, "neuralign", "init", ".")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "neuralign init: error: FOLDER: .gitignore is there already; a folder without it is needed\n"


def test_the_study_that_init_writes_is_planned(installed, tmp_path):
    installed.run(tmp_path, "neuralign", "init", "new")
    assert installed.plan(tmp_path / "new")["train_endpoint"] == 2
    rows = json.loads(installed.run(tmp_path / "new", "neuralign", "plan", "--json"))["rows"]
    assert {row["rule"]: row["jobs"] for row in rows}["train_endpoint"] == 2


def test_nothing_is_due_in_a_folder_that_was_renamed(installed, study):
    assert installed.plan(study) == {}
    assert "no problems" in installed.run(study, "neuralign", "verify", "results")


def test_commands_use_the_config_of_the_folder(installed, study):
    a, b = (f"results/endpoints/small_digits/tiny/plain/{seed}.safetensors" for seed in (1, 2))
    network = ["tiny", a, b, "--data", "small_digits"]
    installed.run(study, "neuralign", "align", *network, "--method", "matched", "-o", "b_aligned.safetensors")
    assert (study / "b_aligned.safetensors").is_file()
    installed.run(study, "neuralign", "connect", *network, "--method", "matched", "--dry-run")
    assert (study / "connected" / "connect.yaml").is_file()


@pytest.mark.parametrize(
    ("file", "change", "due"),
    [
        (
            "evaluation/along_curve.py",
            "NEW = 1",
            {"evaluate": 2, "plot": 3, "tabulate": 1, "tabulate_claims": 1, "report": 1},
        ),
        ("snakemake/scripts/report.py", "NEW = 1", {"report": 1}),
        ("evaluation/along_curve.py", "# a comment", {}),
        ("cli/commands/run.py", "NEW = 1", {}),
    ],
)
def test_an_upgrade_makes_due_what_its_code_changed(installed, study, file, change, due):
    path = installed.package / file
    text = path.read_text()
    path.write_text(f"{text}\n{change}\n")
    try:
        assert installed.plan(study) == due
    finally:
        path.write_text(text)


def test_environments_of_conda_are_refused_in_one_line(installed, study):
    done = installed.start(study, "snakemake", "--dry-run", "--sdm", "conda")
    assert done.returncode == 1
    assert "--software-deployment-method needs a checkout of neuralign: the jobs of the installed" in done.stdout
