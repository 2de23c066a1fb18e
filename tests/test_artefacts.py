"""What jobs share: data, models and artefacts come back as they were written. What is refused: hostile_artefacts.py."""

from functools import partial
from pathlib import Path

import pytest
import torch
from awkward import FREE
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import assert_same, pictures, randomised, shifts, whole
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.tensors import load_tensors, save_tensors
from neuralign.config.plugins import plugin_or_none
from neuralign.curves.storage import load_bends, load_ends, name_bends
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.images import Data
from neuralign.datasets.storage import save as save_dataset
from neuralign.networks.model import Model
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state, split_trainable
from neuralign.symmetry import permutations
from neuralign.symmetry.storage import save_permutation
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.attacks.pgd import pgd
from neuralign.training.progress import Regime

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
    data, model = load_data_and_model(prepared, SETTINGS)
    assert model.network.fc.out_features == 5
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(data.mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(data.std))


def test_the_config_may_set_another_normalisation_or_none(prepared: str) -> None:
    _, own = load_data_and_model(prepared, SETTINGS | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]})
    assert own.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert own.std.flatten().tolist() == [1, 2, 3]
    _, none = load_data_and_model(prepared, SETTINGS | {"normalise": False, "mean": [0.1, 0.2, 0.3]})
    assert none.mean.flatten().tolist() == [0, 0, 0] and none.std.flatten().tolist() == [1, 1, 1]


def test_images_are_resized_to_the_size_the_config_says(prepared: str) -> None:
    data, _ = load_data_and_model(prepared, SETTINGS | {"input_size": 20})
    assert data.train.pixels.shape == (10, 3, 20, 20)


def test_the_seed_decides_the_initial_weights(prepared: str) -> None:
    first, again, other = (whole(load_data_and_model(prepared, SETTINGS, seed)[1].network) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_a_regime_has_its_schedule_bound() -> None:
    entry = {"epochs": 4, "batch_size": 8, "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    regime = Regime.of(entry | {"schedule": {"use": "halving", "every": 2, "drift": 1.0}, "precision": "bfloat16"})
    assert [regime.schedule(epoch, 4) for epoch in range(4)] == [1, 1, 0.5, 0.5]
    assert (regime.epochs, regime.nesterov, regime.precision) == (4, False, "bfloat16")


def test_an_attack_may_be_none() -> None:
    assert plugin_or_none("attacks", None) is None
    found = plugin_or_none("attacks", {"use": "pgd", "eps": 0.1, "step": 0.05})
    assert isinstance(found, partial) and found.func is pgd and found.keywords == {"eps": 0.1, "step": 0.05}


# checkpoints


def test_a_state_comes_back_as_it_was_written(model: Model, tmp_path: Path) -> None:
    state = randomised(model.network)
    save_tensors(state, tmp_path / "network.safetensors")
    assert_same(load_state(str(tmp_path / "network.safetensors"), model), state)


def test_a_file_that_is_not_there_is_named(tinyten: Model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_state(str(tmp_path / "nowhere.safetensors"), tinyten)


def test_a_state_splits_into_parameters_and_buffers(model: Model) -> None:
    state = randomised(model.network)
    parameters, buffers = split_trainable(model, state)
    assert parameters.keys() == dict(model.network.named_parameters()).keys()
    assert buffers.keys() == dict(model.network.named_buffers()).keys()
    assert_same({**parameters, **buffers}, state)


# permutations and ends


def planted(model: Model, data: Data, folder: Path) -> str:
    """A permutation file of this model."""
    spec, path = trace_model(model, data.train).spec, folder / "permutation.safetensors"
    save_permutation(shifts(spec), path, spec, {"certificate": 1e-15})
    return str(path)


def test_the_ends_of_a_path_are_read_with_the_second_permuted(model: Model, data: Data, tmp_path: Path) -> None:
    states = [randomised(model.network, seed) for seed in (1, 2)]
    target, source = (written(s, tmp_path, f"{i}.safetensors") for i, s in enumerate(states))
    spec = trace_model(model, data.train).spec
    start, end = load_ends(model, data.train, target, source, planted(model, data, tmp_path))
    assert_same(start, states[0])
    assert_same(end, permutations.permute(spec, shifts(spec), states[1]))
    assert_same(load_ends(model, data.train, target, source, None)[1], states[1])


def test_a_permutation_of_heads_is_read_as_what_it_is(data: Data, tmp_path: Path) -> None:
    network = FREE["encoder layer"][0]()
    model = Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    states = [randomised(network, seed) for seed in (1, 2)]
    target, source = (written(s, tmp_path, f"{i}.safetensors") for i, s in enumerate(states))
    spec, path = trace_model(model, data.train, attention=True).spec, tmp_path / "permutation.safetensors"
    save_permutation(shifts(spec), path, spec, {"certificate": 1e-15}, attention=True)
    assert any("blocks" in group for group in shifts(spec))
    _, end = load_ends(model, data.train, target, source, str(path))
    assert_same(end, permutations.permute(spec, shifts(spec), states[1]))
    save_permutation(shifts(spec), path, spec, {"certificate": 1e-15})
    with pytest.raises(ValueError, match="its certificate is of another network, with other groups or sizes"):
        load_ends(model, data.train, target, source, str(path))


def test_saving_takes_views_and_writes_metadata_and_no_other_file(tmp_path: Path) -> None:
    big = torch.arange(12.0).view(3, 4)
    save_tensors({"a": big.T, "b": big[1:]}, tmp_path / "new" / "x.safetensors", {"certificate": "fine"})
    found = load_tensors(str(tmp_path / "new" / "x.safetensors"))
    assert_same(found, {"a": big.T, "b": big[1:]})
    with safe_open(tmp_path / "new" / "x.safetensors", "pt") as file:
        assert file.metadata() == {"facts": '{"certificate": "fine"}'}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_the_same_permutation_gives_the_same_bytes(tinyten: Model, data: Data, tmp_path: Path) -> None:
    spec = trace_model(tinyten, data.train).spec
    for i in range(8):
        facts = {"images": 5, "certificate": 1e-15} if i % 2 else {"certificate": 1e-15, "images": 5}
        save_permutation(shifts(spec), tmp_path / str(i), spec, facts)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


# bends


@pytest.mark.parametrize("count", [0, 1, 3])
def test_bends_come_back_as_they_were_written(tinyten: Model, tmp_path: Path, count: int) -> None:
    layout = FlatLayout.of(split_trainable(tinyten, whole(tinyten.network))[0])
    flat = [layout.flatten(randomised(tinyten.network, seed)) for seed in range(count)]
    bends = torch.stack(flat) if flat else torch.empty(0, 1)
    named = name_bends(layout, bends)
    if count:
        assert named[f"{count}.fc.bias"].shape == (5,)
        save_tensors(named, tmp_path / "bends.safetensors")
        found = load_bends(str(tmp_path / "bends.safetensors"), layout, torch.zeros_like(bends))
        assert torch.equal(found, bends)
    else:
        assert named == {}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("kind", [torch.complex32, torch.complex128])
def test_types_that_no_file_holds_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=f"a.safetensors: waves has dtype {kind}, which safetensors files do not have$"):
        save_tensors({"fine": torch.zeros(2, dtype=torch.complex64), "waves": torch.zeros(2, dtype=kind)}, path)
    assert not list(tmp_path.iterdir())


def test_complex64_is_kept(tmp_path):
    waves = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    save_tensors({"waves": waves}, tmp_path / "a.safetensors")
    assert torch.equal(load_tensors(str(tmp_path / "a.safetensors"))["waves"], waves)
