"""Completions of the shell, asked for as bash does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import REPOSITORY

from neuralign.common.files import PACKAGE
from neuralign.config.files import read
from neuralign.config.signatures import names

DEFAULT = read(REPOSITORY / "config.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


PROGRAM = "from neuralign.cli import main; main()"


def completions(line: str, *, program: str = PROGRAM) -> list[str]:
    """What bash is told when the key is pressed at the end of the line; it makes words of `=` and `:`."""
    words = re.findall(r"[=:]|[^ =:]+", line) + ([""] if line.endswith(" ") else [])
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return answer({"_NEURALIGN_COMPLETE": "complete_bash", **asked}, program)


def answer(asked: dict[str, str], program: str = PROGRAM) -> list[str]:
    """What a shell is told that asks by these variables."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), **asked}
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
        ("neuralign doctor x --methods correlation tra", [n for n in DEFAULT["alignments"] if n.startswith("tra")]),
        ("neuralign align x a b --data=dig", [n for n in DEFAULT["datasets"] if n.startswith("dig")]),
        ("neuralign merge x a b --method s", [n for n in DEFAULT["alignments"] if n.startswith("s")]),
        ("neuralign merge x a b --method a", ["auto"]),
        ("neuralign align x a b --method pam", ["pam_unaligned", "pam_aligned", "pam"]),
        ("neuralign merge x a b --repair ", ["auto", "none", *names("repairs")]),
        ("neuralign merge x a b --cohort m", ["mean"]),
        ("neuralign landscape x a --align n", ["none"]),
        ("neuralign landscape x a --loss ", names("objectives")),
        ("neuralign landscape x a --split ", ["test", "train"]),
        ("neuralign landscape x a --statistics s", ["stored"]),
        ("neuralign export x --point ", ["best", "mean", "t="]),
        ("neuralign run x --cores ", ["all"]),
        ("neuralign list m", ["methods", "merges", "metrics"]),
    ],
)
def test_commands_options_and_names_of_the_config_and_of_plug_ins_are_completed(line, expected):
    assert completions(line) == expected and expected


@pytest.mark.parametrize(
    "line", ["neuralign show ", "neuralign compare x a", "neuralign apply x", "neuralign merge x a b -o "]
)
def test_the_shell_completes_files(line):
    assert completions(line) == []


@pytest.mark.parametrize("line", ["neuralign align x a b --method n", "neuralign doctor x --methods n"])
def test_the_entry_that_aligns_nothing_is_completed_where_it_is_a_word_of_the_option_alone(line):
    assert completions(line) == []


def test_finished_studies_and_files_of_data_are_completed():
    tables = Path("results", "studies", "mine", "tables")
    tables.mkdir(parents=True)
    tables.joinpath("accuracy.csv").touch()
    Path("results", "studies", "other").mkdir()
    Path("digest.npz").touch()
    assert completions("neuralign show ") == ["results/studies/mine"]
    assert completions("neuralign align x a b --data dig") == ["digits", "digest.npz"]


def test_classes_and_functions_of_files_are_completed_as_networks():
    Path("sub").mkdir()
    Path("sub", "nets.py").write_text("class Net: ...\ndef make(): ...\ndef _hidden(): ...\nNumber = 1\n")
    Path("sub", "never.py").write_text("class (\n")
    assert completions("neuralign explain sub/ne") == ["sub/nets.py:Net", "sub/nets.py:make"]
    assert completions("neuralign explain ./sub/nets.py:m") == ["make"]  # bash replaces what comes after the colon
    assert completions("neuralign align sub/nets.py:Net a b --method cosi") == ["cosine"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_several_values_of_an_option_too(shell):
    line = "neuralign doctor x --methods correlation transp"
    asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = " ".join(answer({"_NEURALIGN_COMPLETE": f"complete_{shell}", **asked}))
    assert re.findall(r"transport\w*", found) == [n for n in DEFAULT["alignments"] if n.startswith("transp")]


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
