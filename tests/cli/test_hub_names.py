"""Commands on networks and checkpoints that are named after hubs, from caches in the hubs' layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from neuralign.cli import main
from neuralign.networks.foreign_networks import construct
from neuralign.networks.hubs import files, networks

REVISION = "3" * 40
NETWORK = ["timm/test_resnet", "--option", "layers=[1,1,1,1]"]


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return construct("timm/test_resnet", {"layers": [1, 1, 1, 1]}, 4, 3).state_dict()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with images of 4 classes, and with two repositories in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(files, "REVISIONS", {})
    networks.preparation.cache_clear()
    for seed, name in enumerate("ab"):
        snapshot = Path("hub", f"models--me--{name}", "snapshots", REVISION)
        snapshot.mkdir(parents=True)
        save_file(weights(seed), snapshot / "model.safetensors")
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text(REVISION)
    draws = np.random.RandomState(0)
    pixels, labels = draws.randint(0, 256, (2, 16, 32, 32, 3)).astype(np.uint8), np.arange(16) % 4
    np.savez("my.npz", x_train=pixels[0], y_train=labels, x_test=pixels[1], y_test=labels)


def run(capsys, *arguments):
    status = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def test_align_and_compare_read_checkpoints_of_a_hub_and_report_their_revisions(capsys, caplog):
    data = ["--data", "my.npz", "--size", "32", "-o", "b.safetensors"]
    facts = run(capsys, "align", *NETWORK, "hf-hub:me/a", "hf-hub:me/b", *data)
    assert facts["source"]["revision"] == REVISION and facts["source"]["name"] == "hf-hub:me/b"
    assert facts["certificate"] < 1e-6 and load_file("b.safetensors").keys() == weights(0).keys()
    assert caplog.messages == [], "the normalisation is that of timm"
    inputs = ["--option", "num_classes=4", "--input", "2,3,32,32"]
    facts = run(capsys, "compare", *NETWORK, *inputs, "hf-hub:me/b", "b.safetensors")
    assert facts["a"]["revision"] == REVISION and facts["sentence"] == "B is A with its neurons permuted"


def test_a_merge_warns_once_for_each_checkpoint_whose_normalisation_is_not_known(capsys, caplog):
    Path("nets.py").write_text("from timm import create_model\n\ndef net(num_classes):\n")
    with Path("nets.py").open("a") as file:
        file.write("    return create_model('test_resnet', num_classes=num_classes, layers=[1, 1, 1, 1])\n")
    command = ["merge", "nets.py:net", "hf-hub:me/a", "hf-hub:me/b", "--data", "my.npz"]
    command += ["--method", "none", "--repair", "none"]
    run(capsys, *command)  # `main` sends what is logged to standard error, that of the first test in this process
    unknown = "the normalisation that it was trained with is not known"
    assert [message.partition(", so")[0] for message in caplog.messages] == [f"hf-hub:me/{n}: {unknown}" for n in "ab"]
    caplog.clear()
    run(capsys, *command, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    assert caplog.messages == []
    command = ["landscape", "nets.py:net", "hf-hub:me/a", "--data", "my.npz", "--points", "2", "-o", "plane.csv"]
    run(capsys, *command)
    assert [message.partition(", so")[0] for message in caplog.messages] == [f"hf-hub:me/a: {unknown}"]


def test_a_wrong_name_is_one_line(capsys):
    assert main(["explain", "timm/test_resnt"]) == 2
    err = capsys.readouterr().err
    assert "timm has no model 'test_resnt'; did you mean 'test_resnet'?" in err and err.count("\n") == 1
