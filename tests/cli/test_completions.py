"""Completions of the shell, asked for as bash does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import REPOSITORY

from neuralign.common.files import PACKAGE
from neuralign.config.files import read

DEFAULT = read(REPOSITORY / "config.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def completions(line: str, *, program: str = "from neuralign.cli import main; main()") -> list[str]:
    """What bash is told when the key is pressed at the end of the line."""
    words = line.split(" ")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PACKAGE.parent),
        "_NEURALIGN_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("neuralign co", ["connect", "compare"]),
        ("neuralign --v", ["--version"]),
        ("neuralign explain tinyten --att", ["--attention"]),
        ("neuralign run cifar10_r", ["cifar10_robust", "cifar10_recipes"]),
        ("neuralign explain tiny", [name for name in DEFAULT["networks"] if name.startswith("tiny")]),
        ("neuralign align x a b --method cor", [n for n in DEFAULT["alignments"] if n.startswith("cor")]),
        ("neuralign doctor x --methods tra", [n for n in DEFAULT["alignments"] if n.startswith("tra")]),
        ("neuralign merge x a b --data dig", [n for n in DEFAULT["datasets"] if n.startswith("dig")]),
        ("neuralign show ", []),
    ],
)
def test_commands_options_and_names_of_the_config_are_completed(line, expected):
    assert completions(line) == expected and (expected or line.endswith(" "))


def test_names_of_other_config_files_are_completed():
    Path("more.yaml").write_text("studies: {cifar10_mine: {}}\n")
    assert completions("neuralign plan --configfile more.yaml --results x cifar10_m") == ["cifar10_mine"]


@pytest.mark.parametrize("text", ["studies: [", "", "studies: 1\n"])
def test_a_config_that_is_not_valid_completes_nothing(text):
    Path("bad.yaml").write_text(text)
    assert completions("neuralign plan --configfile bad.yaml --results x cifar10_m") == []


def test_completions_import_no_torch():
    program = "import sys\nfrom neuralign.cli import main\ntry:\n main()\nexcept SystemExit as end:\n"
    program += " assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)\n sys.exit(end.code)"
    assert completions("neuralign align tinyt", program=program)
