"""`neuralign merge`, `compare` and `apply`, on checkpoints as several programs write them."""

import json
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from workflow_project import REPOSITORY

import neuralign as na
from neuralign.cli import main
from neuralign.common.tensors import load_tensors
from neuralign.config.signatures import schema
from neuralign.merging.export import write_checkpoint
from neuralign.symmetry.permutations import inverse, permute, random
from neuralign.symmetry.tracing.trace import trace

NETS = """
from torch import nn

def Net(num_classes=4, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, num_classes))
"""
FAST = ("--method", "correlation", "--repair", "repair")


class Lightning(nn.Module):
    """Has the network below `model`, as a module of Lightning has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Wrapped(nn.Module):
    """Has the network below `module`, as data parallel has."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def make(seed: int) -> nn.Module:
    names: dict = {}
    exec(NETS, names)
    torch.manual_seed(seed)
    return names["Net"]()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a network, its data, and checkpoints: B is A with its units in another order."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 3, 9, 9), np.uint8), np.arange(60) % 4
    np.savez("mine.npz", x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])
    a = make(1)
    spec = trace(a, torch.rand(2, 3, 9, 9)).spec
    planted = random(spec, torch.Generator().manual_seed(2))
    b = permute(spec, planted, {n: t.detach() for n, t in a.state_dict().items()})
    save_file(a.state_dict(), "a.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in b.items()}}, "timm.pth.tar")
    wrapped = Lightning(make(3)).state_dict()
    torch.save({"state_dict": wrapped, "pytorch-lightning_version": "2.5", "callbacks": {}}, "lightning.ckpt")
    torch.save(make(4).state_dict(), "plain.pt")
    return spec, planted, a


def run(capsys, *arguments, status=0):
    """Standard output of a command that must return `status` and say nothing on standard error."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments):
    """The one line that a refused command prints on standard error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"neuralign {arguments[0]}: error: ")
    return err


# ---- merge


def test_a_network_merged_with_its_permuted_copy_is_written_as_it_was(capsys, folder):
    files = ("a.safetensors", "timm.pth.tar", "--data", "mine.npz", "-o", "merged.safetensors", *FAST)
    out = run(capsys, "merge", "nets.py:Net", *files)
    merged, a = load_file("merged.safetensors"), folder[2].state_dict()
    assert merged.keys() == a.keys()
    assert all(torch.allclose(merged[n], a[n], atol=1e-6) for n in a)
    assert out.endswith("the merge is as good as A, the best input (95 % interval +0.0 to +0.0, n = 20)\n")
    card = Path("merged.safetensors.md").read_text()
    assert "* A, weight 0.5: file `a.safetensors`, sha256 `" in card and "network: `nets.py:Net`" in card
    _, *rows, _ = out.partition("examples:\n")[2].partition("\n\n")[0].splitlines()  # the last is the ensemble
    assert [row.split()[0] for row in rows] == ["A", "B", "merge"]
    assert all(f"| {' | '.join(row.split())} |" in card for row in rows), "the card has the rows of the text"
    assert "| ensemble of the inputs |" in card and "\nensemble of the inputs  " in out


def settings_of(card):
    """The settings that a card has as YAML."""
    return yaml.safe_load(Path(card).read_text().split("```yaml\n")[1].split("```")[0])


def test_card_and_json_have_the_settings_that_make_the_merge_again(capsys):
    arguments = ("plain.pt", "lightning.ckpt", "--data", "mine.npz", "--option", "in_channels=3", "--attention", *FAST)
    given = ("--mean", "0.5,0.25,0.5", "--std", "0.25,0.5,0.25")
    run(capsys, "merge", "nets.py:Net", *arguments, *given, "-o", "m.pt", "--report", "m.json")
    settings = settings_of("m.pt.md")
    assert settings == {
        "network": {"use": "nets.py:Net", "options": {"in_channels": 3}},
        "data": {"use": "npz", "path": "mine.npz"},
        "input_size": None,
        "normalisation": {"mean": [0.5, 0.25, 0.5], "std": [0.25, 0.5, 0.25]},
        "augmented": False,
        "alignment": {"use": "correlation", **schema("alignments", "correlation")().model_dump()},
        "attention": True,
        "inside": None,
        "loss": "cross_entropy",
        "greedy": False,
    }
    assert json.loads(Path("m.json").read_text())["settings"] == settings
    card = Path("m.pt.md").read_text()
    assert "* inputs: pixels x in [0, 1], as (x - mean) / std with mean [0.5, 0.25, 0.5] and std [0.25, 0.5" in card
    assert "* alignment to A: correlation, also of heads\n" in card

    run(capsys, "merge", "nets.py:Net", *arguments, "--no-normalise", "-o", "m.pt")
    assert settings_of("m.pt.md")["normalisation"] == {"mean": [0.0] * 3, "std": [1.0] * 3}


def test_the_settings_of_a_merge_without_data_have_the_shape_of_its_inputs(capsys):
    arguments = ("plain.pt", "lightning.ckpt", "--option", "num_classes=4", "--input", "2,3,9,9")
    facts = json.loads(run(capsys, "merge", "nets.py:Net", *arguments, "-o", "m.pt", "--json"))
    settings = settings_of("m.pt.md")
    assert facts["settings"] == settings and settings["data"] is None and settings["normalisation"] is None
    assert settings["input"] == [2, 3, 9, 9] and settings["network"]["options"] == {"num_classes": 4}


@pytest.mark.parametrize("command", ["merge", "align", "compare", "landscape"], ids=lambda command: f"by {command}")
def test_an_inner_part_of_one_checkpoint_and_a_plain_one_are_used_together(capsys, caplog, folder, command):
    ema = make(6).state_dict()
    torch.save({"state_dict": {"raw": make(7).state_dict(), "ema": ema}}, "ema.pt")
    arguments = {
        "merge": ("--input", "2,3,9,9", "-o", "m.pt", "--method", "none", "--repair", "none"),
        "align": ("--data", "mine.npz", "-o", "aligned.pt"),
        "compare": ("--input", "2,3,9,9"),
        "landscape": ("--data", "mine.npz", "-o", "plane.csv", "--points", "2"),
    }[command]
    assert main([command, "nets.py:Net", "ema.pt", "plain.pt", "--inside", "state_dict.ema", *arguments]) == 0
    assert "plain.pt: has nothing inside 'state_dict.ema'; it is a plain state, which is used as it is" in caplog.text
    if command == "merge":
        merged, plain = torch.load("m.pt", weights_only=True), make(4).state_dict()
        assert all(torch.allclose(merged[n], (ema[n] + plain[n]) / 2) for n in merged if n.endswith(("ht", "bias")))


def test_an_inner_part_that_no_checkpoint_has_is_refused(capsys):
    arguments = ("plain.pt", "a.safetensors", "--inside", "emma", "--input", "2,3,9,9")
    assert "plain.pt: contains no tensor of the network inside 'emma'" in refused(
        capsys, "merge", "nets.py:Net", *arguments
    )


def test_several_states_in_a_file_are_chosen_by_inside(capsys):
    torch.save({"model": make(6).state_dict(), "ema": make(7).state_dict()}, "two.pt")
    message = refused(capsys, "merge", "nets.py:Net", "two.pt", "plain.pt", "--input", "2,3,9,9")
    assert "choose one with --inside, in a config `inside`: 'model', 'ema'" in message


def test_the_card_lists_the_shards_of_an_input(capsys, folder):
    Path("shards").mkdir()
    tensors = {n: t.detach() for n, t in folder[2].state_dict().items()}
    for i, names in enumerate((list(tensors)[:2], list(tensors)[2:])):
        save_file({n: tensors[n] for n in names}, f"shards/m-{i}.safetensors")
    index = {"weight_map": {n: f"m-{int(i > 1)}.safetensors" for i, n in enumerate(tensors)}}
    Path("shards/m.safetensors.index.json").write_text(json.dumps(index))
    run(capsys, "merge", "nets.py:Net", "shards", "plain.pt", "--input", "2,3,9,9", "-o", "m.pt")
    card = Path("m.pt.md").read_text()
    assert re.search(r"\* A, weight 0.5: file `shards`\n(  \* `m[^ ]*`: `[0-9a-f]{64}`\n){3}\* B, ", card)


@pytest.mark.parametrize("first", ["plain.pt", "lightning.ckpt", "timm.pth.tar"])
def test_checkpoints_of_several_programs_are_merged_and_the_first_gives_the_names(capsys, first):
    others = [f for f in ("plain.pt", "lightning.ckpt", "timm.pth.tar") if f != first]
    outputs = ("-o", "m.pt", "--report", "m.json", "--json")
    out = run(capsys, "merge", "nets.py:Net", first, *others, "--data", "mine.npz", *outputs, *FAST)
    facts = json.loads(out)
    assert facts == json.loads(Path("m.json").read_text())
    assert [given["file"] for given in facts["checkpoints"]] == [first, *others] and len(facts["inputs"]) == 3
    assert facts["measured_on"] == "test" and facts["n"] == 20 and facts["examples"] == {"fit": 32, "validation": 8}
    wrap = {"lightning.ckpt": Lightning, "timm.pth.tar": Wrapped}.get(first, lambda network: network)
    wrap(make(0)).load_state_dict(torch.load("m.pt", weights_only=True))
    assert facts["sentence"].startswith("the merge is ")


def test_without_data_nothing_is_measured(capsys):
    out = run(capsys, "merge", "nets.py:Net", "plain.pt", "lightning.ckpt", "--input", "2,3,9,9", "-o", "m.safetensors")
    assert out.endswith("nothing was measured: compare the merge with its inputs before you use it\n")
    make(0).load_state_dict(load_file("m.safetensors"))
    assert "Nothing, for there were no labelled data." in Path("m.safetensors.md").read_text()


def test_at_most_gives_an_exit_status(capsys):
    arguments = ("merge", "nets.py:Net", "plain.pt", "lightning.ckpt", "--data", "mine.npz", *FAST, "--json")
    facts = json.loads(run(capsys, *arguments))
    allowed, forbidden = max(0.0, -facts["gain"]), -facts["gain"] - 0.1
    run(capsys, *arguments, "--at-most", str(allowed))
    if forbidden >= 0:
        run(capsys, *arguments, "--at-most", str(forbidden), status=1)


def augmented_to_black():
    """The entry of the dataset `dark` in the config c.yaml, whose images are moved out of the frame, beside `light`."""
    dark = {"use": "npz", "path": "mine.npz", "augment": [{"use": "./away.py:away"}]}
    Path("away.py").write_text(
        "from neuralign.training.augmentation import Motion\n\n"
        "def away(batch):\n    return Motion(lambda rows, columns: (rows + 100, columns))\n"
    )
    Path("c.yaml").write_text(yaml.safe_dump({"datasets": {"dark": dark, "light": {"use": "npz", "path": "mine.npz"}}}))
    return dark


def test_statistics_of_augmented_images_are_those_of_the_datasets_augmentation(capsys):
    """The first batch norm sees one value everywhere in black images."""
    dark = augmented_to_black()
    arguments = ("merge", "nets.py:Net", "a.safetensors", "plain.pt", "--method", "none", "--repair", "reset")
    config = ("--configfile", "c.yaml", "-o", "m.safetensors")
    run(capsys, *arguments, "--data", "dark", *config)
    assert load_file("m.safetensors")["1.running_var"].max() > 1e-3
    run(capsys, *arguments, "--data", "dark", "--augmented", *config)
    assert load_file("m.safetensors")["1.running_var"].max() < 1e-9
    settings = settings_of("m.safetensors.md")
    assert settings["augmented"] is True and settings["data"] == dark
    message = "--augmented: needs --data with a dataset of the config that has `augment`"
    assert message in refused(capsys, *arguments, "--data", "light", "--augmented", *config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.safetensors"], "CHECKPOINT: found 1; at least two are needed"),
        (["a.safetensors", "plain.pt", "-o", "m.bin"], "--output: found m.bin; .safetensors, .pt or .pth is needed"),
        (["a.safetensors", "plain.pt", "--at-most", "1"], "--at-most: the merge can only be measured with --data"),
        (
            ["a.safetensors", "plain.pt", "--input", "2,3,9,9", "--method", "x"],
            "--method: found 'x' (allowed: auto, none,",
        ),
        (
            ["a.safetensors", "plain.pt", "--input", "2,3,9,9", "--weights", "1,1"],
            "--weights: found 1,1; 2 numbers that sum to 1 are needed",
        ),
        (["a.safetensors", "nets.py", "--input", "2,3,9,9"], "nets.py: "),
        (["a.safetensors", "plain.pt", "--repair", "x"], "--repair: found 'x' (allowed: auto, none, bias,"),
        (["a.safetensors", "plain.pt", "--cohort", "x"], "--cohort: found 'x' (allowed: frank_wolfe, mean, reference)"),
        (["a.safetensors", "plain.pt", "--loss", "x"], "--loss: found 'x' (allowed: cross_entropy, "),
        (
            ["a.safetensors", "plain.pt", "--augmented"],
            "--augmented: needs --data with a dataset of the config that has",
        ),
        (["a.safetensors", "plain.pt", "--greedy"], "--greedy: needs --data, and no --weights, because it chooses"),
        (
            ["a.safetensors", "plain.pt", "--data", "none.npz", "--at-most", "1", "--loss", "squared_error"],
            "--at-most: squared_error has no metric in percent",
        ),
        (
            ["a.safetensors", "plain.pt", "--input", "2,3,99999,99999"],
            "--input: found '2,3,99999,99999', which are 6.0e+10 numbers; at most 1e+09 are allowed",
        ),
    ],
)
def test_merge_refuses_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, "merge", "nets.py:Net", *arguments)


def test_the_file_is_measured_and_not_what_was_rounded_to_it(capsys):
    save_file({n: t.bfloat16() if t.is_floating_point() else t for n, t in make(1).state_dict().items()}, "half.pt")
    Path("half.pt").rename("half.safetensors")
    arguments = ("half.safetensors", "plain.pt", "--data", "mine.npz", "-o", "m.safetensors", *FAST, "--json")
    facts = json.loads(run(capsys, "merge", "nets.py:Net", *arguments))
    written = load_file("m.safetensors")
    assert written["0.weight"].dtype == torch.bfloat16
    with np.load("mine.npz") as data:
        x, y = torch.from_numpy(data["x_test"]) / 255, torch.from_numpy(data["y_test"]).long()
    shift, scale = (torch.tensor(facts["normalisation"][key]).view(-1, 1, 1) for key in ("mean", "std"))
    net = make(0).eval()
    net.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in written.items()})
    loss = nn.functional.cross_entropy(net((x - shift) / scale), y).item()
    assert facts["merged"]["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("data", [("--data", "mine.npz", *FAST), ("--input", "2,3,9,9", "--method", "none")])
def test_a_merge_that_the_type_of_its_file_cannot_hold_is_refused(capsys, data):
    halved, large = ({n: t.clone() for n, t in make(seed).state_dict().items()} for seed in (1, 2))
    for tensors, value in ((halved, 6e4), (large, 9e5)):
        tensors["1.running_var"].fill_(value)
    save_file({n: t.half() if t.is_floating_point() else t for n, t in halved.items()}, "half.safetensors")
    save_file(large, "large.safetensors")
    arguments = ("merge", "nets.py:Net", "half.safetensors", "large.safetensors", *data)
    if data[0] == "--data":  # statistics of its own would fit
        arguments = (*arguments[:-2], "--repair", "none")
    before = contents()
    message = refused(capsys, *arguments, "-o", "m.safetensors")
    assert "1.running_var: found values up to 4.8e+05, too large for torch.float16, its type in the first" in message
    assert contents() == before


@pytest.mark.parametrize("first", ["plain.pt", "lightning.ckpt", "timm.pth.tar"])
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_the_code_of_the_card_loads_the_checkpoint(capsys, first, name):
    files = (first, "a.safetensors", "--input", "2,3,9,9", "--method", "weights")
    run(capsys, "merge", "nets.py:Net", *files, "-o", name)
    (code,) = re.findall(r"```python\n(.*?)```", Path(f"{name}.md").read_text(), re.DOTALL)
    network = make(0)
    exec(code, {"network": network})
    written = [*(load_file(name) if name == "m.safetensors" else torch.load(name, weights_only=True)).values()]
    assert sum(any(torch.equal(t, own) for t in written) for own in network.state_dict().values()) == len(written)


def test_the_card_says_that_names_with_wrappers_inside_need_a_wrapped_network(capsys):
    save_file({n.replace("0.", "0.module.", n.startswith("0.")): t for n, t in make(1).state_dict().items()}, "in.pt")
    Path("in.pt").rename("in.safetensors")
    files = ("in.safetensors", "plain.pt", "--input", "2,3,9,9", "--method", "none")
    run(capsys, "merge", "nets.py:Net", *files, "-o", "m.safetensors")
    (code,) = re.findall(r"```python\n(.*?)```", Path("m.safetensors.md").read_text(), re.DOTALL)
    assert "# the names have wrappers in them, as in the first checkpoint" in code
    network = make(0)
    network[0] = Wrapped(network[0])
    exec(code, {"network": network})
    assert torch.equal(network[0].module.weight, load_file("m.safetensors")["0.module.weight"])


def test_of_one_test_image_no_interval_is_said(capsys):
    with np.load("mine.npz") as data:
        np.savez("one.npz", **{n: x[:1] if n.endswith("test") else x for n, x in data.items()})
    arguments = ("merge", "nets.py:Net", "plain.pt", "lightning.ckpt", "--data", "one.npz", *FAST, "--json")
    facts = json.loads(run(capsys, *arguments))
    assert facts["n"] == 1 and facts["interval"] is None
    assert facts["sentence"].endswith("(n = 1, so this may be chance)")


def test_units_that_are_neither_permuted_nor_repaired_are_named(capsys):
    Path("odd.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self, num_classes=4, in_channels=3):\n"
        "        super().__init__()\n        self.first, self.aux = nn.Linear(6, 8), nn.Linear(8, 2)\n"
        "        self.last = nn.Linear(8, 4)\n\n"
        "    def forward(self, x):\n        return self.last(self.first(x).relu())\n"
    )
    names: dict = {}
    exec(Path("odd.py").read_text(), names)
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_file(names["Net"]().state_dict(), f"odd{seed}.safetensors")
    arguments = ("merge", "odd.py:Net", "odd1.safetensors", "odd2.safetensors", "--input", "2,6")
    out = run(capsys, *arguments, "-o", "m.pt")
    assert "no neuron of the network may be permuted" in out
    assert "no run of the network uses aux.weight, aux.bias; units that they may take as input are neither" in out
    assert "* units that may be permuted: 0\n" in Path("m.pt.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "mine.npz", "--input", "2,3,9,9"), "--input: only for a merge without --data"),
        (("--data", "mine.npz", "--tokens", "9"), "--tokens: only for a merge without --data"),
        (
            ("--data", "mine.npz", "--no-normalise", "--mean", "0,0,0", "--std", "1,1,1"),
            "--mean: with --no-normalise pixels are taken as they are",
        ),
        (("--size", "9"), "--size: needs --data"),
        (("--mean", "0.1,0.1,0.1"), "--mean: needs --data"),
        (("--std", "0.1,0.1,0.1"), "--std: needs --data"),
        (("--no-normalise",), "--no-normalise: needs --data"),
        (("--loss", "squared_error"), "--loss: needs --data"),
        (("--input", "2,3,9,9", "--cohort", "reference"), "--cohort: needs three checkpoints or more"),
        (("--input", "2,3,9,9", "--attention", "--method", "none"), "--attention: --method none permutes nothing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(capsys, options, message):
    assert message in refused(capsys, "merge", "nets.py:Net", "plain.pt", "a.safetensors", *options)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    before, limits = contents(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for name in ("full.pt", "full.safetensors"):
            with pytest.raises(OSError, match=f"File too large: '{tmp_path / name}'"):
                write_checkpoint({"weight": torch.zeros(100, 100)}, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents() == before


# ---- landscape


def test_a_landscape_of_networks_of_augmented_images_has_their_statistics(capsys):
    augmented_to_black()
    arguments = ("landscape", "nets.py:Net", "a.safetensors", "plain.pt", "--points", "2", "--configfile", "c.yaml")

    def losses(*options):
        run(capsys, *arguments, "--data", "dark", "-o", "plane.csv", *options)
        return pd.read_csv("plane.csv")["loss"].to_numpy()

    assert not np.allclose(losses("--augmented"), losses())
    stored = ("--statistics", "stored")
    assert np.array_equal(losses("--augmented", *stored), losses(*stored))
    message = refused(capsys, *arguments, "--data", "light", "--augmented")
    assert "--augmented: needs --data with a dataset of the config that has `augment`" in message


def test_a_landscape_is_written_as_data_as_a_picture_and_as_a_page(capsys, folder):
    arguments = ("landscape", "nets.py:Net", "a.safetensors", "plain.pt", "--data", "mine.npz", "--points", "3")
    facts = json.loads(run(capsys, *arguments, "-o", "plane.csv", "--json"))
    table = pd.read_csv("plane.csv")
    assert list(table) == ["x", "y", "t1", "t2", "loss", "accuracy"] and len(table) == 9 and facts["points"] == [3, 3]
    assert facts["extremes"]["loss"] == [table["loss"].min(), table["loss"].max()]
    assert facts["plane"] == (
        "The plane through A, B and a random direction with the norms of A's filters (seed 0); "
        "A = a.safetensors, B = plain.pt."
    )
    text = run(capsys, *arguments, "--align", "weights", "--split", "train", "-o", "plane.html", "--extent=-1,2")
    assert "through A, B, B aligned; A = a.safetensors, B = plain.pt, aligned by weights.\n3 x 3 points" in text
    page = Path("plane.html").read_text()
    assert "Net on mine, train data" in page and "B aligned" in page
    run(capsys, *arguments[:3], "--data", "mine.npz", "--points", "2", "-o", "plane.svg")
    assert Path("plane.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.safetensors"] * 4, "CHECKPOINT: found 4; one, two or three are needed"),
        (
            ["a.safetensors", "-o", "a.gif"],
            "--output: found 'a.gif'; a name that ends with .html, .png, .pdf, .svg, .csv",
        ),
        (["a.safetensors", "--extent", "0,1,2"], "--extent: found 0,1,2; two numbers are needed, LOW,HIGH, or four"),
        (["a.safetensors", "--extent", "1,0"], "--extent: found 1,0; LOW must be smaller than HIGH"),
        (["a.safetensors", "--extent", "0,1e-12"], "--extent: found 0,1e-12; too narrow for 21 points, which must be"),
        (["a.safetensors", "--align", "x"], "--align: found 'x' (allowed: none, random, correlation, "),
        (["a.safetensors", "--align", "weights"], "--align: found 'weights', and there is no second checkpoint to"),
        (["a.safetensors", "--loss", "x"], "--loss: found 'x' (allowed: cross_entropy, "),
        (["a.safetensors", "--split", "all"], "--split: found 'all'; needed is test or train"),
        (["a.safetensors", "--mean", "0.5"], "--mean, --std: found 1 and 0 numbers; each needs one for every channel"),
        (["a.safetensors", "--mean", "0.5", "--std", "0.5"], "images of 3 channels, but `mean` and `std` have 1"),
        (["a.safetensors", "--points", "1"], "--points: found '1'; needed is a whole number, from 2 to 1,001"),
        (["a.safetensors", "a.safetensors"], "A, B: no plane: its points 1 and 2 are the same model"),
        (["a.safetensors", "other.pt"], "other.pt: "),
    ],
)
def test_landscape_refuses_in_one_line(capsys, arguments, message):
    torch.save(nn.Linear(2, 3).state_dict(), "other.pt")
    assert message in refused(capsys, "landscape", "nets.py:Net", *arguments, "--data", "mine.npz")
    assert not Path("landscape.html").exists()


def test_a_landscape_that_cannot_be_drawn_is_refused_before_it_is_computed(capsys, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)  # as if it were not installed
    arguments = ("landscape", "nets.py:Net", "a.safetensors", "--data", "mine.npz", "--points", "2")
    assert "--output: .html needs plotly: pip install 'neuralign[workflow]'" in refused(capsys, *arguments)
    assert main([*arguments, "-o", "numbers.csv"]) == 0 and Path("numbers.csv").is_file()


# ---- compare


def test_compare_recognises_a_permuted_copy_and_a_stranger(capsys):
    same = run(capsys, "compare", "nets.py:Net", "a.safetensors", "timm.pth.tar", "--input", "2,3,9,9")
    assert same.endswith("B is A with its neurons permuted\n") and "100%" in same
    other = run(capsys, "compare", "nets.py:Net", "a.safetensors", "lightning.ckpt", "--input", "2,3,9,9", "--json")
    facts = json.loads(other)
    assert not facts["same_up_to_permutation"] and facts["sentence"].startswith("B is not A with its neurons permuted")
    assert [row["units"] for row in facts["layers"]] == [6, 5] and facts["b"]["file"] == "lightning.ckpt"
    assert run(capsys, "compare", "nets.py:Net", "plain.pt", "plain.pt", "--input", "2,3,9,9").endswith("B is A\n")


# ---- apply


@pytest.fixture
def permutation(capsys):
    """The file of the permutation that aligns B to A."""
    files = ("a.safetensors", "timm.pth.tar", "--data", "mine.npz", "--permutation", "p.safetensors")
    run(capsys, "align", "nets.py:Net", *files)
    return "p.safetensors"


def test_masks_task_vectors_and_states_of_optimisers_are_permuted(capsys, folder, permutation):
    spec, planted, a = folder
    found = load_tensors(permutation)
    assert all(torch.equal(found[g], inverse(planted)[g]) for g in planted)
    mask = {n: t > 0 for n, t in a.state_dict().items() if t.dim() > 1}
    of_b = permute(spec, planted, mask)
    torch.save(of_b, "mask.pt")
    out = run(capsys, "apply", permutation, "mask.pt", "-o", "out.pt")
    assert out == "3 tensors permuted, 0 left as they are\noutput: out.pt\n"
    back = torch.load("out.pt", weights_only=True)
    assert all(torch.equal(back[n], mask[n]) for n in mask)
    state = {"exp_avg": {f"module.{n}": t * 1.0 for n, t in of_b.items()}, "step": {"count": torch.tensor(3)}}
    torch.save(state, "adam.pt")
    facts = json.loads(run(capsys, "apply", permutation, "adam.pt", "-o", "out.safetensors", "--json"))
    assert facts == {"permuted": 3, "unchanged": ["step.count"], "output": "out.safetensors"}
    back = load_file("out.safetensors")
    assert all(torch.equal(back[f"exp_avg.module.{n}"], mask[n] * 1.0) for n in mask) and back["step.count"] == 3


def test_pruned_weights_and_their_masks_are_permuted(capsys, folder, permutation):
    spec, planted, a = folder
    pruned = permute(spec, planted, {n: t.detach() for n, t in a.state_dict().items()})
    kept = pruned.pop("3.weight")
    more = {"3.weight_orig": kept, "3.weight_mask": (kept > 0).float(), "state.3.weight_orig.exp_avg": kept * 2}
    torch.save(pruned | more, "pruned.pt")
    out = run(capsys, "apply", permutation, "pruned.pt", "-o", "out.pt")
    assert "1 left as they are, in which the permutation knows no neurons: 1.num_batches_tracked" in out
    back, weight = torch.load("out.pt", weights_only=True), a.state_dict()["3.weight"]
    assert torch.equal(back["3.weight_orig"], weight) and torch.equal(back["3.weight_mask"], (weight > 0).float())
    assert torch.equal(back["state.3.weight_orig.exp_avg"], weight * 2)


@pytest.fixture
def adam(folder):
    """(a network of the class, an Adam that has made a step with it)."""
    network = make(5)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(4, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    return network, optimizer


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda network, optimizer: optimizer.state_dict(), "state.0.exp_avg, state.0.exp_avg_sq, state.1.exp_avg"),
        (
            lambda network, optimizer: {
                "state_dict": Lightning(network).state_dict(),
                "optimizer_states": [optimizer.state_dict()],
            },
            "optimizer_states.0.state.0.exp_avg, optimizer_states.0.state.0.exp_avg_sq, ",
        ),
        (
            lambda network, optimizer: {"model": network.state_dict(), "optimizer": optimizer.state_dict()},
            "optimizer.state.0.exp_avg, ",
        ),
    ],
    ids=["torch", "lightning", "a loop"],
)
def test_states_of_optimisers_by_index_are_refused(capsys, permutation, adam, content, found):
    torch.save(content(*adam), "training.ckpt")
    message = refused(capsys, "apply", permutation, "training.ckpt", "-o", "out.pt")
    assert f"training.ckpt: found the state of an optimiser, with numbers in place of names ({found}" in message
    assert "such as <name>.exp_avg: number i is the i-th of `named_parameters()`" in message
    assert not Path("out.pt").exists()


def test_the_documented_names_of_moments_are_permuted_with_the_weights(capsys, folder, permutation, adam):
    network, optimizer = adam
    _, _, section = (REPOSITORY / "docs/command-line.md").read_text().partition("\n## apply\n")
    exec(section.partition("```python\n")[2].partition("```")[0], {"network": network, "optimizer": optimizer})
    out = run(capsys, "apply", permutation, "moments.pt", "-o", "out.pt")
    assert out == "16 tensors permuted, 0 left as they are\noutput: out.pt\n"
    moved, spec = torch.load("out.pt", weights_only=True), folder[0]
    indices = load_tensors(permutation)
    for (name, _), state in zip(network.named_parameters(), optimizer.state.values(), strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moved[f"{key}.{name}"], permute(spec, indices, {name: state[key]})[name])


def test_states_of_optimisers_by_name_are_permuted(capsys, folder, permutation, adam):
    network, optimizer = adam
    spec, indices = folder[0], load_tensors(permutation)
    named = dict(zip(dict(network.named_parameters()), optimizer.state.values(), strict=True))  # as FSDP names them
    torch.save({"state": {f"_fsdp_wrapped_module.{name}": state for name, state in named.items()}}, "adam.pt")
    facts = json.loads(run(capsys, "apply", permutation, "adam.pt", "-o", "out.pt", "--json"))
    assert facts["permuted"] == 2 * len(named)
    assert sorted(facts["unchanged"]) == sorted(f"state._fsdp_wrapped_module.{name}.step" for name in named)
    moved = torch.load("out.pt", weights_only=True)
    for name, state in named.items():
        for key in ("exp_avg", "exp_avg_sq"):
            permuted = permute(spec, indices, {name: state[key]})[name]
            assert torch.equal(moved[f"state._fsdp_wrapped_module.{name}.{key}"], permuted)
    torch.save({"state": {"0.weight": {"scales": torch.ones(3)}, "0.bias": {"scales": torch.ones(6)}}}, "adam.pt")
    message = refused(capsys, "apply", permutation, "adam.pt", "-o", "out.pt")
    assert "state.0.weight.scales: has shape (3,); (6, " in message


def test_counts_of_steps_by_index_are_left_as_they_are(capsys, permutation):
    moments = {"0.bias": torch.arange(6.0)}
    torch.save({"exp_avg": moments, "state": {0: {"step": torch.tensor(3.0)}}}, "moments.pt")
    facts = json.loads(run(capsys, "apply", permutation, "moments.pt", "-o", "out.pt", "--json"))
    assert facts["permuted"] == 1 and facts["unchanged"] == ["state.0.step"]


def test_apply_refuses_in_one_line(capsys, folder, permutation):
    torch.save({"0.weight": torch.zeros(7, 3, 3, 3)}, "large.pt")
    message = refused(capsys, "apply", permutation, "large.pt", "-o", "out.pt")
    assert "large.pt: 0.weight: has shape (7, 3, 3, 3); (6, " in message and "that of 0.weight" in message
    torch.save({"x": torch.zeros(2)}, "others.pt")
    assert "others.pt: no tensor has a name of the network (0.bias, " in refused(
        capsys, "apply", permutation, "others.pt", "-o", "out.pt"
    )
    save_file({"0": torch.arange(6)}, "old.safetensors")
    assert "old.safetensors: does not say on which tensors the neurons lie" in refused(
        capsys, "apply", "old.safetensors", "others.pt", "-o", "out.pt"
    )
    assert "--output: found out; .safetensors" in refused(capsys, "apply", permutation, "others.pt", "-o", "out")
    assert not Path("out.pt").exists()


def test_two_names_that_are_one_without_wrappers_are_refused(capsys, permutation):
    torch.save({"0.bias": torch.zeros(6), "module.0.bias": torch.ones(6)}, "twice.pt")
    message = refused(capsys, "apply", permutation, "twice.pt", "-o", "out.pt")
    assert "twice.pt: 0.bias and module.0.bias are one name without those of wrappers" in message


# ---- outputs that are inputs


def contents() -> dict[Path, bytes]:
    """{file below the working directory: what is in it}."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


ALIGN = ("align", "nets.py:Net", "plain.pt", "a.safetensors", "--data", "mine.npz")
MERGE = ("merge", "nets.py:Net", "plain.pt", "a.safetensors", "--data", "mine.npz")


@pytest.fixture
def files(folder):
    """The folder with images, shards, a link and configs besides."""
    for path in ("images/test/cat", "images/train/cat", "shards", "done"):
        Path(path).mkdir(parents=True)
    Path("images/test/cat/1.png").write_bytes(b"a picture")
    for path in ("my.yaml", "m.pt.md", "done/connect.yaml"):
        Path(path).write_text("{}")
    Path("link.pt").symlink_to("plain.pt")
    save_file({n: t.detach() for n, t in folder[2].state_dict().items()}, "shards/m-0.safetensors")
    index = {"weight_map": dict.fromkeys(folder[2].state_dict(), "m-0.safetensors")}
    Path("shards/m.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*ALIGN, "-o", "plain.pt"), "--output: found plain.pt, which is an input"),
        ((*ALIGN, "-o", "./a.safetensors"), "--output: found a.safetensors, which is an input"),
        ((*ALIGN, "-o", "link.pt"), "--output: found link.pt, which is an input"),
        ((*ALIGN, "--permutation", "a.safetensors"), "--permutation: found a.safetensors, which is an input"),
        ((*ALIGN, "--permutation", "mine.npz"), "--permutation: found mine.npz, which is an input"),
        ((*MERGE, "-o", "plain.pt"), "--output: found plain.pt, which is an input"),
        ((*MERGE, "-o", "a.safetensors"), "--output: found a.safetensors, which is an input"),
        ((*MERGE, "--report", "nets.py"), "--report: found nets.py, which is an input"),
        ((*MERGE, "--report", "my.yaml", "--configfile", "my.yaml"), "--report: found my.yaml, which is an input"),
        (
            (*MERGE, "-o", "m.pt", "--configfile", "m.pt.md"),
            "--output (its card): found m.pt.md, which is an input",
        ),
        (
            ("merge", "nets.py:Net", "shards", "plain.pt", "--input", "2,3,9,9", "-o", "shards/m-0.safetensors"),
            "--output: found shards/m-0.safetensors, which is an input",
        ),
        (
            ("landscape", "nets.py:Net", "plain.pt", "--data", "images", "-o", "images/test/cat/1.png"),
            "--output: found images/test/cat/1.png, which is an input",
        ),
        (
            ("connect", *ALIGN[1:], "--out", "done", "--configfile", "done/connect.yaml"),
            "--out: found done/connect.yaml, which is an input",
        ),
    ],
)
def test_an_output_that_is_an_input_is_refused_before_any_work(capsys, files, arguments, message):
    before = contents()
    assert f"{message} of this command; another name is needed" in refused(capsys, *arguments)
    assert contents() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (*ALIGN, "-o", "x.safetensors", "--permutation", "x.safetensors"),
            "--permutation: found x.safetensors, which --output writes; another name is needed",
        ),
        (
            (*MERGE, "-o", "x.pt", "--report", "images/../x.pt"),
            "--report: found images/../x.pt, which --output writes; another name is needed",
        ),
        (
            (*MERGE, "-o", "x.pt", "--report", "x.pt.md"),
            "--report: found x.pt.md, which --output (its card) writes; another name is needed",
        ),
        (
            (*MERGE, "-o", "x.pt", "--report", "done"),
            "--report: found done, which is a folder; the name of a file is needed",
        ),
        ((*MERGE, "-o", "nets.py/x.pt"), "nets.py is no folder that can be written to"),
    ],
)
def test_outputs_in_the_place_of_each_other_or_of_no_file_are_refused_before_any_work(
    capsys, files, arguments, message
):
    before = contents()
    assert message in refused(capsys, *arguments)
    assert contents() == before


def test_outputs_that_cannot_be_written_are_refused_before_any_work(capsys):
    Path("done.json").mkdir()
    Path("circle.pt").symlink_to("circle.pt")
    trace_arguments = ("trace", "nets.py:Net", "--input", "2,3,9,9", "--out")
    assert "--out: found done.json, which is a folder" in refused(capsys, *trace_arguments, "done.json")
    assert "--out: found nets.py/x.json, but " in refused(capsys, *trace_arguments, "nets.py/x.json")
    run(capsys, *MERGE, *FAST, "-o", "circle.pt")  # the link is replaced
    assert Path("circle.pt").is_file() and not Path("circle.pt").is_symlink()


def test_apply_does_not_overwrite_the_permutation_or_the_tensors(capsys, permutation):
    before = contents()
    for file in (permutation, "plain.pt"):
        message = refused(capsys, "apply", permutation, "plain.pt", "-o", file)
        assert f"--output: found {file}, which is an input of this command; another name is needed" in message
    assert contents() == before


def test_an_output_of_an_earlier_run_may_be_overwritten(capsys):
    for _ in range(2):
        run(capsys, *ALIGN, "-o", "out.pt", "--permutation", "p.safetensors")


# ---- merges without data


def test_a_merge_without_data_of_files_is_that_of_the_networks_in_memory(capsys, folder):
    save_file(make(3).state_dict(), "c.safetensors")
    arguments = ("a.safetensors", "c.safetensors", "--input", "2,3,9,9", "-o", "m.safetensors", "--method", "weights")
    facts = json.loads(run(capsys, "merge", "nets.py:Net", *arguments, "--json"))
    merged = na.merge(folder[2], make(3), example=torch.randn(2, 3, 9, 9), method="weights")
    written = load_file("m.safetensors")
    expected = merged.network.state_dict()
    assert written.keys() == expected.keys() and all(torch.equal(written[n], expected[n]) for n in written)
    assert facts["tried"] == merged.report["tried"] and facts["certificate"] < 1e-9


def test_random_inputs_are_no_data(capsys):
    arguments = ("merge", "nets.py:Net", "a.safetensors", "plain.pt", "--input", "2,3,9,9")
    assert "--repair: 'repair' reads examples; --data is needed" in refused(capsys, *arguments, "--repair", "repair")
    assert "method: covariance reads examples, and there are none" in refused(
        capsys, *arguments, "--method", "covariance"
    )
    assert "cohort: found 'x' (allowed: frank_wolfe, mean, reference)" in refused(capsys, *arguments, "--cohort", "x")
