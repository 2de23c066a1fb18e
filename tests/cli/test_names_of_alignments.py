"""Which alignment `--method`, `--methods` and `--align` name: the same in all commands."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from workflow_project import REPOSITORY

from neuralign.cli import main
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config

NETS = """
from torch import nn

def Net(num_classes=4):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, num_classes))
"""
MINE = """
from pathlib import Path

from neuralign.alignment.algorithms.weights import weights

def match(problem, *, restarts: int = 1):
    Path("ran").write_text(str(restarts))
    return weights(problem, restarts=restarts)

def two(problem, other):
    return {}

def lists(problem):
    return {group: index.tolist() for group, index in weights(problem).items()}
"""
CONFIG = """
alignments:
  mine: {use: "./mine.py:match", restarts: 3}
  single_pass: null
  begun: {use: weights, start: correlation}
  seen: {use: weights, augmented: true}
  heads: {use: weights, attention: true}
"""
DATA = ("a.pt", "b.pt", "--data", "mine.npz")
COMMANDS = {  # their arguments up to the name of the alignment
    "align": (*DATA, "--method"),
    "connect": (*DATA, "--dry-run", "--method"),
    "merge": (*DATA, "--repair", "none", "--method"),
    "landscape": (*DATA, "--points", "2", "-o", "plane.csv", "--align"),
    "doctor": ("--input", "3,9,9", "--images", "8", "--seeds", "1", "--noise", "0", "--methods"),
}


def make(seed: int) -> nn.Module:
    names: dict = {}
    exec(NETS, names)
    torch.manual_seed(seed)
    return names["Net"]()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a network, two checkpoints, data, methods of alignment, and a config."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("mine.py").write_text(MINE)
    Path("own.yaml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 3, 9, 9), np.uint8), np.arange(60) % 4
    np.savez("mine.npz", x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.save(make(seed).state_dict(), name)


def call(command, method, *more):
    """The exit status of a command with an alignment of this name."""
    return main([command, "nets.py:Net", *COMMANDS[command], method, "--configfile", "own.yaml", *more])


def refused(capsys, command, method, *more):
    """The one line that it prints on standard error."""
    assert call(command, method, *more) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("method", "restarts"),
    [
        ("mine", "3"),
        ("./mine.py:match", "1"),
        ("weights_20", None),
        ("single_pass", None),
        ("neuralign.alignment.algorithms.weights:weights", None),
    ],
    ids=["of a configfile", "of a file", "of the default config", "a plug-in that the config has not", "of a module"],
)
def test_every_command_takes_entries_of_the_config_plug_ins_and_functions_of_the_user(command, method, restarts):
    assert call(command, method) == 0
    if command != "connect":  # which only lists its jobs here
        assert (Path("ran").read_text() if Path("ran").exists() else None) == restarts


@pytest.mark.parametrize(
    ("method", "name", "entry"),
    [
        ("mine", "mine", None),
        ("single_pass", "my_single_pass", {"use": "single_pass"}),
        ("./mine.py:match", "match", {"use": "{folder}/mine.py:match"}),
    ],
)
def test_connect_writes_an_alignment_that_the_config_has_not_to_its_own(method, name, entry):
    assert call("connect", method) == 0
    written = yaml.safe_load(Path("connected", "connect.yaml").read_text())
    assert written["methods"]["aligned"]["alignment"] == name
    if entry:
        use = entry["use"].format(folder=Path.cwd())
        assert written["alignments"][name] == {"use": use}


def test_with_attention_a_function_of_the_user_permutes_heads():
    assert call("connect", "./mine.py:match", "--attention") == 0
    written = yaml.safe_load(Path("connected", "connect.yaml").read_text())
    assert written["alignments"]["match_attention"]["attention"] is True


def test_the_settings_of_a_merge_have_what_its_method_stands_for(capsys):
    assert call("merge", "mine", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["method"] == "mine" and facts["tried"][0]["method"] == "mine"
    assert facts["settings"]["alignment"] == {"use": "./mine.py:match", "restarts": 3}
    assert call("merge", "auto", "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["alignment"] is None


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("weigths", ": found 'weigths'; did you mean 'weights'? (allowed: "),
        ("./mine.py:macht", ": ./mine.py:macht: mine.py does not define 'macht'; did you mean 'match'? (found: match,"),
        ("./nowhere.py:match", "/nowhere.py"),
        ("./mine.py:two", "found two(problem, other); a plug-in of alignments is called as two(problem, *, option"),
    ],
)
def test_every_command_refuses_what_is_no_alignment_in_one_line(capsys, command, method, message):
    err = refused(capsys, command, method)
    assert message in err and f"error: {COMMANDS[command][-1]}: " in err
    if method == "weigths":
        assert err.endswith(", ./file.py:name and package.module:name)\n") and " pam," in err and " mine," in err


@pytest.mark.parametrize("command", ["align", "merge", "landscape", "doctor"])
def test_a_method_that_returns_lists_is_refused_in_one_line_by_its_name(capsys, command):
    message = "/mine.py:lists returns list for the group '0'; an int64 tensor is needed\n"
    assert refused(capsys, command, "./mine.py:lists").endswith(message)


@pytest.mark.parametrize("command", ["merge", "landscape"])
@pytest.mark.parametrize(("method", "key"), [("begun", "start"), ("seen", "augmented")])
def test_entries_that_need_the_workflow_are_refused_where_there_is_none(capsys, command, method, key):
    message = f": {method!r} has {key!r} in the config, which only align, connect and studies do; one without is needed"
    assert message in refused(capsys, command, method)


@pytest.mark.parametrize("command", ["merge", "landscape"])
def test_entries_with_attention_need_the_option(capsys, command):
    message = ": 'heads' has `attention: true` in the config; --attention is needed with it"
    assert message in refused(capsys, command, "heads")
    assert call(command, "heads", "--attention") == 0


def test_the_method_of_the_documentation_finds_a_planted_permutation_and_its_inverse_does_not(capsys):
    section = (REPOSITORY / "docs" / "extending.md").read_text().partition("\n## An alignment method\n")[2]
    section = section.partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    entries = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1]
    Path("mine.py").write_text(
        f"{code}\n\ndef inverse(problem):\n    return {{g: p.argsort() for g, p in mine(problem).items()}}\n"
    )
    Path("smooth.py").write_text(NETS.replace("ReLU", "Sigmoid"))  # no unit is silent, so all can be found
    doctor = ("doctor", "smooth.py:Net", *COMMANDS["doctor"])
    assert main([*doctor, "./mine.py:mine", "./mine.py:inverse", "--json"]) == 0
    shares = {r["method"]: r["recovered"] for r in json.loads(capsys.readouterr().out)["rows"] if r["group"] == ""}
    assert shares["./mine.py:mine"] == 1 and shares["./mine.py:inverse"] < 0.9
    Path("own.yaml").write_text(entries)
    assert main([*doctor, "mine", "--configfile", "own.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["breaks"] == {"mine": None}
    assert Catalogue(read_config([REPOSITORY / "config.yaml", Path("own.yaml")])).entry("methods", "linear_mine")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_section_that_is_no_mapping_is_refused(capsys, command):
    Path("own.yaml").write_text("alignments: [weights]\n")
    assert call(command, "weights") == 2
    assert "alignments" in capsys.readouterr().err
