"""What jobs share: artefacts are read with care, and refused with the name of the file and of the tensor."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import assert_same, pictures, randomised, shifts, small, whole
from torch import Tensor

from neuralign import setting, symmetry
from neuralign.attacks.pgd import pgd
from neuralign.curves import straight
from neuralign.curves.bezier import bezier
from neuralign.data import Dataset, Split
from neuralign.data.storage import save as save_dataset
from neuralign.images import Data
from neuralign.networks import Model
from neuralign.parameters import Layout

SETTINGS = {"input_size": None, "normalise": True, "mean": None, "std": None, "network": {"use": "tinyten", "width": 4}}


@pytest.fixture
def data() -> Data:
    return Data(pictures(10), pictures(4), tuple("abcde"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.fixture
def prepared(tmp_path: Path) -> str:
    """A prepared dataset on disk."""
    train, test = (Split(s.pixels.numpy(), s.labels.numpy()) for s in (pictures(10), pictures(4)))
    save_dataset(Dataset(train, test, tuple("abcde")), tmp_path / "data.safetensors")
    return str(tmp_path / "data.safetensors")


def written(state: dict[str, Tensor], folder: Path, name: str = "network.safetensors") -> str:
    save_file(state, folder / name)
    return str(folder / name)


# data and model


def test_model_and_data_fit_each_other(prepared: str) -> None:
    data, model = setting.prepare(prepared, SETTINGS)
    assert model.network.fc.out_features == 5
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(data.mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(data.std))


def test_the_config_may_set_another_normalisation_or_none(prepared: str) -> None:
    _, own = setting.prepare(prepared, SETTINGS | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]})
    assert own.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert own.std.flatten().tolist() == [1, 2, 3]
    _, none = setting.prepare(prepared, SETTINGS | {"normalise": False, "mean": [0.1, 0.2, 0.3]})
    assert none.mean.flatten().tolist() == [0, 0, 0] and none.std.flatten().tolist() == [1, 1, 1]


def test_images_are_resized_to_the_size_the_config_says(prepared: str) -> None:
    data, _ = setting.prepare(prepared, SETTINGS | {"input_size": 20})
    assert data.train.pixels.shape == (10, 3, 20, 20)


def test_the_seed_decides_the_initial_weights(prepared: str) -> None:
    first, again, other = (whole(setting.prepare(prepared, SETTINGS, seed)[1].network) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_a_regime_has_its_schedule_bound() -> None:
    entry = {"epochs": 4, "batch_size": 8, "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    regime = setting.regime(entry | {"schedule": {"use": "halving", "every": 2, "drift": 1.0}, "precision": "bfloat16"})
    assert [regime.schedule(epoch, 4) for epoch in range(4)] == [1, 1, 0.5, 0.5]
    assert (regime.epochs, regime.nesterov, regime.precision) == (4, False, "bfloat16")


def test_an_attack_may_be_none() -> None:
    assert setting.attack(None) is None
    found = setting.attack({"use": "pgd", "eps": 0.1, "step": 0.05})
    assert isinstance(found, partial) and found.func is pgd and found.keywords == {"eps": 0.1, "step": 0.05}


# checkpoints


def test_a_state_comes_back_as_it_was_written(model: Model, tmp_path: Path) -> None:
    state = randomised(model.network)
    setting.save(state, tmp_path / "network.safetensors")
    assert_same(setting.read_state(str(tmp_path / "network.safetensors"), model), state)


def missing(state: dict[str, Tensor]) -> None:
    del state["fc.bias"], state["features.bn1.running_mean"]


def extra(state: dict[str, Tensor]) -> None:
    state["fc2.weight"] = torch.ones(3)


def reshaped(state: dict[str, Tensor]) -> None:
    state["fc.weight"] = torch.ones(7, 16)


def infinite(state: dict[str, Tensor]) -> None:
    state["fc.weight"][2, 3] = float("nan")


def infinite_buffer(state: dict[str, Tensor]) -> None:
    state["features.bn1.running_var"][0] = float("inf")


@pytest.mark.parametrize(
    "damage, message",
    [
        (missing, "tensors are missing for this network: ['fc.bias', 'features.bn1.running_mean']"),
        (extra, "tensors that this network does not have: ['fc2.weight']"),
        (reshaped, "fc.weight has shape (7, 16), the network (5, 16)"),
        (infinite, "fc.weight has values that are not finite"),
        (infinite_buffer, "features.bn1.running_var has values that are not finite"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tinyten: Model, tmp_path: Path, damage: Any, message: str) -> None:
    state = randomised(tinyten.network)
    damage(state)
    path = written(state, tmp_path)
    with pytest.raises(ValueError) as error:
        setting.read_state(path, tinyten)
    assert str(error.value) == f"{path}: {message}"


class Trap:
    """A pickle of it would create a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["pickle", "empty", "truncated"])
def test_a_file_of_another_kind_is_refused_by_name_and_nothing_in_it_runs(
    tinyten: Model, tmp_path: Path, content: str
) -> None:
    path, victim = tmp_path / "network.safetensors", tmp_path / "executed"
    if content == "pickle":
        torch.save({"fc.weight": Trap(victim)}, path)
        pickle.loads(pickle.dumps(Trap(tmp_path / "armed")))
        assert (tmp_path / "armed").exists()  # the trap does work
    elif content == "empty":
        path.touch()
    else:
        written(randomised(tinyten.network), tmp_path)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError) as error:
        setting.read_state(str(path), tinyten)
    assert str(error.value).startswith(f"{path}: not a safetensors file, or damaged: ")
    assert not victim.exists()


def test_a_file_that_is_not_there_is_named(tinyten: Model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        setting.read_state(str(tmp_path / "nowhere.safetensors"), tinyten)


def test_a_state_splits_into_parameters_and_buffers(model: Model) -> None:
    state = randomised(model.network)
    parameters, buffers = setting.split(model, state)
    assert parameters.keys() == dict(model.network.named_parameters()).keys()
    assert buffers.keys() == dict(model.network.named_buffers()).keys()
    assert_same({**parameters, **buffers}, state)


# permutations and ends


def planted(model: Model, data: Data, folder: Path, **facts: Any) -> str:
    """A permutation file of this model."""
    spec, path = setting.symmetry(model, data).spec, folder / "permutation.safetensors"
    setting.save_permutation(shifts(spec), path, spec, {"certificate": 1e-15} | facts)
    return str(path)


def test_the_ends_of_a_path_are_read_with_the_second_permuted(model: Model, data: Data, tmp_path: Path) -> None:
    states = [randomised(model.network, seed) for seed in (1, 2)]
    target, source = (written(s, tmp_path, f"{i}.safetensors") for i, s in enumerate(states))
    spec = setting.symmetry(model, data).spec
    start, end = setting.read_ends(target, source, planted(model, data, tmp_path), model, data)
    assert_same(start, states[0])
    assert_same(end, symmetry.permute(spec, shifts(spec), states[1]))
    assert_same(setting.read_ends(target, source, None, model, data)[1], states[1])


def test_a_permutation_of_another_network_is_refused(tinyten: Model, data: Data, tmp_path: Path) -> None:
    path = written(randomised(tinyten.network), tmp_path)
    permutation = planted(small("tinyten", width=3), data, tmp_path)
    with pytest.raises(ValueError, match="permutation.safetensors: its certificate is of another network"):
        setting.read_ends(path, path, permutation, tinyten, data)


def test_a_permutation_without_a_certificate_is_refused(tinyten: Model, data: Data, tmp_path: Path) -> None:
    spec = setting.symmetry(tinyten, data).spec
    path = written(shifts(spec), tmp_path, "permutation.safetensors")
    with pytest.raises(ValueError, match="permutation.safetensors: a permutation without a certificate; only what"):
        setting.read_permutation(path, spec)
    with pytest.raises(ValueError, match="its certificate is 0.2, allowed is at most 1e-09"):
        setting.read_permutation(planted(tinyten, data, tmp_path, certificate=0.2), spec)
    with pytest.raises(ValueError, match="its certificate is nan"):
        setting.read_permutation(planted(tinyten, data, tmp_path, certificate=float("nan")), spec)


def test_a_certified_file_whose_indices_are_no_permutation_is_refused(
    tinyten: Model, data: Data, tmp_path: Path
) -> None:
    spec, path = setting.symmetry(tinyten, data).spec, str(tmp_path / "permutation.safetensors")
    setting.save_permutation(shifts(spec) | {"features.conv1": torch.zeros(4).long()}, path, spec, {"certificate": 0})
    with pytest.raises(ValueError, match="group 'features.conv1': not a permutation of 4 channels"):
        setting.read_permutation(path, spec)


def test_saving_takes_views_and_writes_metadata_and_no_other_file(tmp_path: Path) -> None:
    big = torch.arange(12.0).view(3, 4)
    setting.save({"a": big.T, "b": big[1:]}, tmp_path / "new" / "x.safetensors", {"certificate": "fine"})
    found = setting.read(str(tmp_path / "new" / "x.safetensors"))
    assert_same(found, {"a": big.T, "b": big[1:]})
    with safe_open(tmp_path / "new" / "x.safetensors", "pt") as file:
        assert file.metadata() == {"certificate": "fine"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


# bends


@pytest.mark.parametrize("count", [0, 1, 3])
def test_bends_come_back_as_they_were_written(tinyten: Model, tmp_path: Path, count: int) -> None:
    layout = Layout.of(setting.split(tinyten, whole(tinyten.network))[0])
    size = sum(shape.numel() for shape in layout.shapes.values())
    bends = torch.randn(count, size, generator=torch.Generator().manual_seed(0))
    named = setting.name_bends(layout, bends)
    if count:
        assert named[f"{count}.fc.bias"].shape == (5,)
        setting.save(named, tmp_path / "bends.safetensors")
        found = setting.read_bends(str(tmp_path / "bends.safetensors"), layout, torch.zeros(count, size))
        assert torch.equal(found, bends)
    else:
        assert named == {}


def test_bends_of_another_curve_or_network_are_refused(tinyten: Model, tmp_path: Path) -> None:
    layout = Layout.of(setting.split(tinyten, whole(tinyten.network))[0])
    flat = layout.flatten(whole(tinyten.network))
    path = written(setting.name_bends(layout, straight(partial(bezier, bends=2), flat, flat).bends), tmp_path)
    with pytest.raises(ValueError, match="network.safetensors: holds other tensors than 1 bends of this network"):
        setting.read_bends(path, layout, flat[None])
