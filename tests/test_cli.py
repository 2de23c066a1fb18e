"""The command line: what it prints, what it writes, what it returns, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neuralign.cli import COMMANDS, main
from neuralign.common.files import PACKAGE
from neuralign.config.references import load
from neuralign.symmetry.explain import scattered
from neuralign.symmetry.permutations import permute, random
from neuralign.symmetry.tracing.trace import trace
from neuralign.workflow.running.run_lock import alone

NETS = """
from torch import nn

def Net(num_classes=4, in_channels=3, width=6):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.Tanh(), nn.Conv2d(width, 5, 3), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, num_classes))

class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=3)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        assert x.shape[-1] == 9, "9 pixels are wanted"
        x = self.stem(x).flatten(2).mT
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))

class Ordered(nn.Module):
    # of which nothing may move: its units are summed up in their order
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(243, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).cumsum(1))

class Bare(nn.Module):
    # without parameters
    def forward(self, x):
        return x.mean((2, 3)).repeat(1, 2)[:, :4]

class Leaving(nn.Module):
    def __init__(self):
        raise SystemExit(3)

class Secretive(nn.Module):
    def forward(self, x):
        return (x for _ in range(2))

class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a network, two checkpoints and data; B is A with its units in another order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("nets.py").write_text(NETS)
    draws = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (6, 3, 3, 3), "0.bias": (6,), "1.weight": (6,), "1.bias": (6,), "1.running_mean": (6,)}
    shapes |= {"1.running_var": (6,), "3.weight": (5, 6, 3, 3), "3.bias": (5,), "7.weight": (4, 5), "7.bias": (4,)}
    a = {n: torch.randn(s, generator=draws) for n, s in shapes.items()}
    a["1.running_var"], first, second = a["1.running_var"].exp(), [2, 0, 1, 5, 3, 4], [4, 3, 0, 1, 2]
    b = {n: t[first] for n, t in a.items() if n[0] in "01"}
    b |= {"3.weight": a["3.weight"][second][:, first], "3.bias": a["3.bias"][second]}
    b |= {"7.weight": a["7.weight"][:, second], "7.bias": a["7.bias"]}
    save_file({n: t.contiguous() for n, t in a.items()}, "a.safetensors")
    torch.save({"epoch": 1, "model": {f"module.{n}": t for n, t in b.items()}}, "b.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 9, 9), np.uint8)
    labels = np.arange(60) % 4
    np.savez("mine.npz", x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])
    return a


def run(capsys, *arguments, status=0):
    """Standard output of a command that must return `status` and say nothing on standard error."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments):
    """The one line that a command is refused with."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"neuralign {arguments[0]}: error: ")
    return err


# ---- help


def shell(*arguments, **environment):
    found = {"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]} | environment
    return subprocess.run([sys.executable, *arguments], env=found, capture_output=True, text=True)


def test_help_needs_no_torch_and_names_every_command():
    code = "import sys\nfrom neuralign.cli import main\ntry:\n main(['--help'])\n"
    code += "finally:\n assert 'torch' not in sys.modules"
    done = shell("-c", code)
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_parse(command, capsys):
    from neuralign.cli import parser

    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and "examples:" in capsys.readouterr().out
    for example in COMMANDS[command].EXAMPLES:
        name, *arguments = example.split("#")[0].split()
        assert name == "neuralign" and parser().parse_args(arguments).command == command


def test_the_module_runs_and_misuse_has_status_2():
    assert "usage: neuralign" in shell("-m", "neuralign", "--help").stdout
    done = shell("-m", "neuralign", "explain", "nets.py:Net", "--inputs", "1,3,9,9")
    assert done.returncode == 2 and "unrecognized arguments: --inputs" in done.stderr


# ---- explain


def test_explain_prints_facts(capsys):
    facts = json.loads(run(capsys, "explain", "nets.py:Net", "--input", "1,3,9,9", "--json"))
    assert sorted(facts["groups"].values()) == [5, 6] and facts["certified"] is True
    assert facts["max_error"] < 1e-12 and 0 < facts["permutable_fraction"] < 1 and facts["seconds"] > 0
    assert {f["axis"] for f in facts["frozen"]} >= {"7.weight[0]", "0.weight[1]"}
    assert all(f["reason"] for f in facts["frozen"])
    text = run(capsys, "explain", "./nets.py:Net", "--option", "width=8", "--input", "2,3,9,9")
    assert "8 units" in text and "2 groups" in text and "leaves the function as it is" in text


def test_explain_knows_networks_of_the_config(capsys):
    facts = json.loads(run(capsys, "explain", "tinyten", "--option", "width=2", "--input", "1,1,16,16", "--json"))
    assert len(facts["groups"]) == 8


def test_a_certificate_that_does_not_hold_has_status_1(capsys, monkeypatch):
    monkeypatch.setattr("neuralign.symmetry.certificate.Certificate.holds", False)
    assert (
        json.loads(run(capsys, "explain", "nets.py:Net", "--input", "1,3,9,9", "--json", status=1))["certified"]
        is False
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nets.py:Nett"], "did you mean 'Net'?"),
        (["nets.py:Leaving"], "nets.py:Leaving: called with no options: SystemExit: 3"),
        (["nets.py:Secretive", "--input", "1,3,9,9"], "the network returns a generator; tensors, or tuples"),
        (
            ["tinytenn"],
            "folder/file.py:name or a network of the config is wanted (tiny",
        ),
        (["nets.py:Net", "--option", "depth=3"], "unexpected keyword argument 'depth'"),
        (["nets.py:Net", "--option", "width"], "--option: found 'width', NAME=VALUE is wanted"),
        (["nets.py:Attentive", "--input", "1,3,7,7"], "input of shape (1, 3, 7, 7): AssertionError: 9 pixels"),
        (["nets.py:Net", "--input", "1,3,2,2"], "the network does not take an input of shape (1, 3, 2, 2)"),
        (["tinyten", "--option", "widht=3"], "unknown key 'widht'; did you mean 'width'?"),
        (["nets.py:Net", "--configfile", "nowhere.yaml"], "--configfile: no such file as nowhere.yaml"),
    ],
)
def test_explain_refuses_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, "explain", *arguments)


NOTHING = "Nothing of this network may be permuted: "
CUMSUM = NOTHING + "first.weight[0] and 1 more, because aten::cumsum reads its order; "


def test_explain_says_in_one_line_that_nothing_may_move_and_why(capsys):
    text = run(capsys, "explain", "nets.py:Ordered", "--input", "1,3,9,9")
    assert text.startswith(CUMSUM) and text.count("\n") == 1
    facts = json.loads(run(capsys, "explain", "nets.py:Ordered", "--input", "1,3,9,9", "--json"))
    assert facts["groups"] == {} and facts["certified"] is True and facts["permutable_fraction"] == 0
    text = run(capsys, "explain", "nets.py:Bare", "--input", "1,3,9,9")
    assert text == NOTHING + "no axis of its parameters has several units.\n"


# ---- align


def test_align_finds_the_planted_permutation_and_keeps_the_names_of_the_file(capsys, folder):
    arguments = ["nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz", "-o", "out.safetensors"]
    facts = json.loads(run(capsys, "align", *arguments, "--permutation", "p.safetensors", "--json"))
    found = load_file("out.safetensors")
    assert found.keys() == {f"module.{name}" for name in folder}
    assert all(torch.equal(found[f"module.{name}"], tensor) for name, tensor in folder.items())
    assert facts["certificate"] < 1e-12 and sorted(g["moved"] for g in facts["groups"].values()) == [5, 6]
    with safe_open("p.safetensors", "pt") as file:
        noted = json.loads(file.metadata()["facts"])
        assert noted["certificate"] == facts["certificate"] and noted["source"]["file"] == "b.pt"
        assert sorted(len(file.get_tensor(n)) for n in file.keys()) == [5, 6]  # noqa: SIM118 (not a dict)


def test_align_writes_torch_files_too_and_says_what_moved(capsys, folder):
    text = run(capsys, "align", "nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz", "-o", "out.pt")
    assert "11 of 11 units moved in 2 groups" in text and "certified" in text
    assert torch.equal(torch.load("out.pt", weights_only=True)["module.3.bias"], folder["3.bias"])


@pytest.mark.parametrize("method", ["correlation", "transport"])
def test_align_writes_b_as_it_is_where_nothing_may_move(capsys, method):
    network = load("nets.py:Ordered")
    torch.save(network().state_dict(), "first.pt")
    b = {name: tensor.half() for name, tensor in network().state_dict().items()}
    torch.save({"model": b}, "second.pt")
    files = ["nets.py:Ordered", "first.pt", "second.pt", "--data", "mine.npz", "--method", method]
    text = run(capsys, "align", *files, "-o", "out.pt", "--permutation", "p.safetensors")
    assert text.startswith(CUMSUM) and text.count("\n") == 3
    assert "B is in A's order as it is." in text
    found = torch.load("out.pt", weights_only=True)
    assert found.keys() == b.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in b.items())
    facts = json.loads(run(capsys, "align", *files, "--json"))
    assert facts["groups"] == {} and facts["certificate"] == 0 and facts["why"].startswith(CUMSUM)
    with safe_open("p.safetensors", "pt") as file:
        assert list(file.keys()) == [] and json.loads(file.metadata()["facts"])["certificate"] == 0


def test_align_reads_shards_and_writes_one_file_of_the_same_numbers(capsys, folder):
    """In float64, of which the network's float32 would lose digits."""
    precise = {n: t.double() + 1e-9 for n, t in folder.items()}
    names = list(precise)
    Path("shards").mkdir()
    parts = {"m-00001-of-00002.safetensors": names[:5], "m-00002-of-00002.safetensors": names[5:]}
    for shard, of in parts.items():
        save_file({n: precise[n] for n in of}, Path("shards", shard))
    index = {"weight_map": {n: shard for shard, of in parts.items() for n in of}}
    Path("shards", "m.safetensors.index.json").write_text(json.dumps(index))
    arguments = ["nets.py:Net", "b.pt", "shards", "--data", "mine.npz", "-o", "out.safetensors", "--json"]
    facts = json.loads(run(capsys, "align", *arguments))
    assert facts["source"]["file"] == "shards" and len(facts["source"]["shards"]) == 3
    found = load_file("out.safetensors")
    assert found.keys() == precise.keys()
    assert all(torch.equal(found[n].sort(0).values, t.sort(0).values) for n, t in precise.items() if n[0] in "01")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.safetensors", "c.pt"], "c.pt: no such file"),
        (["a.safetensors", "."], "checkpoints are in it; name one of a.safetensors, b.pt"),
        (["a.safetensors", "pointer.pt"], "pointer.pt: a pointer of Git LFS, not the file that it stands for"),
        (["a.safetensors", "a.safetensors"], "A and B are the same file"),
        (["a.safetensors", "nets.py"], "nets.py: neither .safetensors nor a file of torch.save, or damaged"),
        (["a.safetensors", "b.pt", "--option", "num_classes=7"], "logits (1, 4) are wanted, one for each class"),
        (
            ["a.safetensors", "b.pt", "--option", "width=7"],
            "of another shape: 0.weight is [6, 3, 3, 3], in the network [7",
        ),
        (["a.safetensors", "b.pt", "--inside", "ema"], "no tensor of the network is inside 'ema'"),
        (
            ["a.safetensors", "b.pt", "--method", "corelation"],
            "no alignment 'corelation' in the config (allowed: random, corr",
        ),
        (["a.safetensors", "b.pt", "-o", "/dev/null/out.pt"], "File exists: '/dev/null'"),
        (["a.safetensors", "b.pt", "-o", "out.h5"], "--output: found out.h5; .safetensors, .pt or .pth is wanted"),
        (
            ["a.safetensors", "b.pt", "--data", "mine.zip"],
            "--data: found 'mine.zip'; a folder, a .npz file or a dataset",
        ),
    ],
)
def test_align_refuses_in_one_line(capsys, arguments, message):
    Path("pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    assert message in refused(capsys, "align", "nets.py:Net", "--data", "mine.npz", *arguments)
    assert not Path("out.h5").exists()


def test_heads_are_permuted_on_request(capsys):
    explain = ("explain", "nets.py:Attentive", "--input", "1,3,9,9", "--json")
    plain, whole = (json.loads(run(capsys, *explain, *more)) for more in ((), ("--attention",)))
    heads = whole["groups"].keys() - plain["groups"].keys()
    assert {group.rpartition("]")[2] for group in heads} == {":blocks", ":within"}
    network = load("nets.py:Attentive")()
    example = torch.rand(2, 3, 9, 9)
    spec = trace(network, example, attention=True).spec
    a = scattered(network, 1)
    planted = random(spec, torch.Generator().manual_seed(2))
    save_file(a, "heads_a.safetensors")
    save_file({n: t.contiguous() for n, t in permute(spec, planted, a).items()}, "heads_b.safetensors")
    files = ["nets.py:Attentive", "heads_a.safetensors", "heads_b.safetensors", "--data", "mine.npz"]
    facts = json.loads(run(capsys, "align", *files, "-o", "out.safetensors", "--attention", "--json"))
    assert facts["groups"].keys() >= heads
    assert all(torch.equal(load_file("out.safetensors")[name], tensor) for name, tensor in a.items())
    facts = json.loads(run(capsys, "align", *files, "--json"))
    assert not heads & facts["groups"].keys()


# ---- doctor


def test_doctor_recovers_everything_without_noise_and_less_with_more(capsys):
    arguments = ["nets.py:Net", "--input", "3,9,9", "--methods", "correlation", "--noise", "0", "30", "--seeds", "2"]
    facts = json.loads(run(capsys, "doctor", *arguments, "--images", "32", "--json"))
    whole = {row["noise"]: row for row in facts["rows"] if row["group"] == ""}
    assert whole[0]["recovered"] == 1 and whole[0]["n"] == 2 and whole[30]["recovered"] < 0.9
    assert facts["breaks"] == {"correlation": 30} and facts["images"] == "32 random images"
    text = run(capsys, "doctor", *arguments, "--images", "32")
    assert "1.000 ± 0.000" in text and "correlation: breaks at noise 30" in text and "n = 2 planted" in text


def test_doctor_looks_at_given_data_with_given_weights(capsys):
    arguments = ["nets.py:Net", "--data", "mine.npz", "--checkpoint", "b.pt", "--methods", "transport", "--noise", "0"]
    facts = json.loads(run(capsys, "doctor", *arguments, "--seeds", "1", "--json"))
    assert facts["images"] == "40 images of mine.npz" and facts["weights"] == "b.pt"
    assert facts["breaks"] == {"transport": None}


def test_doctor_says_that_nothing_may_move(capsys):
    for more in (["--input", "3,9,9"], ["--data", "mine.npz"]):
        arguments = ["nets.py:Ordered", *more, "--images", "8", "--seeds", "1", "--methods", "correlation"]
        text = run(capsys, "doctor", *arguments)
        assert text.startswith(CUMSUM) and text.endswith("So no method has anything to find.\n")
        assert text.count("\n") == 1
        facts = json.loads(run(capsys, "doctor", *arguments, "--json"))
        assert facts["rows"] == [] and facts["breaks"] == {} and facts["why"].startswith(CUMSUM)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nets.py:Net", "--input", "3,2,2"], "the network does not take an input of shape (2, 3, 2, 2)"),
        (["nets.py:Net", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such file"),
    ],
)
def test_doctor_refuses_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, "doctor", *arguments, "--images", "8", "--seeds", "1")


@pytest.mark.parametrize("level", ["nan", "-1", "inf", "much"])
def test_noise_is_a_number_from_0(capsys, level):
    with pytest.raises(SystemExit) as end:
        main(["doctor", "nets.py:Net", f"--noise={level}"])
    assert end.value.code == 2 and f"found '{level}', a number from 0 is wanted" in capsys.readouterr().err


def test_doctor_refuses_two_kinds_of_images(capsys):
    assert "--input is the shape of random" in refused(
        capsys, "doctor", "nets.py:Net", "--data", "mine.npz", "--input", "3,9,9"
    )


# ---- connect (real runs: test_own.py)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.safetensors"], "CHECKPOINT: found 1, pairs are wanted"),
        (["a.safetensors", "a.safetensors"], "a pair is two different seeds or checkpoints"),
        (["a.safetensors", "b.pt", "--points", "1"], "evaluations.connect.points: found 1"),
        (
            ["a.safetensors", "b.pt", "--method", "corelation"],
            "no such entry of 'alignments': 'corelation'; did",
        ),
    ],
)
def test_connect_refuses_in_one_line_and_writes_nothing(capsys, arguments, message):
    assert message in refused(capsys, "connect", "nets.py:Net", *arguments, "--data", "mine.npz")
    assert not Path("connected").exists()


def test_connect_says_that_another_run_is_at_work(capsys):
    with alone(Path("connected")):
        text = refused(capsys, "connect", "nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz")
    assert "another run is at work in connected (results/.running there is locked); wait for it, or end it" in text
    assert not Path("connected", "connect.yaml").exists()
