"""docs/tutorials/first-result.md: all of its commands after the installation run as they stand there, in a new folder.

Trainings have one epoch here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import REPOSITORY, environ

pytestmark = pytest.mark.workflow
PAGE = (REPOSITORY / "docs" / "tutorials" / "first-result.md").read_text()
SHORT = "regimes: {demo: {endpoint: {epochs: 1}, curve: {epochs: 1}}}\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def shell(script: str, folder: Path) -> str:
    """What a script prints that must succeed; `neuralign` is that of this repository."""
    environment = environ() | {"PYTHONPATH": str(REPOSITORY / "lib")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-e"], input=script, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_the_page_give_what_it_says(tmp_path):
    install, first, look, own = blocks("sh")
    (network,), (config,) = blocks("python"), blocks("yaml")
    assert "pip install" in install
    (tmp_path / "short.yaml").write_text(SHORT)

    shell(first.replace("cd my-study\n", "cd my-study\ncat ../short.yaml >> config.yaml\n"), tmp_path)
    study = tmp_path / "my-study"
    assert "aligned" in shell(look, study)
    page = study / "results" / "studies" / "first" / "report.html"
    assert "TinyTen" in page.read_text()
    trained = sorted((study / "results" / "endpoints" / "digits" / "tinyten" / "demo").glob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in trained]

    (study / "nets.py").write_text(network)
    (study / "config.yaml").write_text(config + SHORT)
    printed = shell(own, study)
    assert "32" in printed and "train_endpoint" in printed
    assert len(list((study / "results" / "endpoints" / "digits" / "mine" / "demo").glob("*.safetensors"))) == 2
    assert len(times) == 2 and times == [file.stat().st_mtime_ns for file in trained], "TinyTen is trained once"
    assert "mine" in page.read_text()
