"""A prepared dataset and the settings of a job give data and a model that fit each other."""

from pathlib import Path

import pytest
import torch
from tiny import assert_same, pictures, whole

from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.storage import save
from neuralign.networks.setup import load_data_and_model

SETTINGS = {"input_size": None, "normalise": True, "mean": None, "std": None, "network": {"use": "tinyten", "width": 4}}


@pytest.fixture
def prepared(tmp_path: Path) -> str:
    """The path of a prepared dataset of 5 classes."""
    train, test = (Split(s.pixels.numpy(), s.labels.numpy()) for s in (pictures(10), pictures(4)))
    save(Dataset(train, test, tuple("abcde")), tmp_path / "data.safetensors")
    return str(tmp_path / "data.safetensors")


def test_the_model_has_the_classes_and_the_normalisation_of_the_data(prepared: str) -> None:
    data, model = load_data_and_model(prepared, SETTINGS)
    assert model.network.fc.out_features == 5
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(data.mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(data.std))


def test_the_settings_may_have_another_normalisation_or_none(prepared: str) -> None:
    _, model = load_data_and_model(prepared, SETTINGS | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]})
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == [1, 2, 3]
    _, model = load_data_and_model(prepared, SETTINGS | {"normalise": False, "mean": [0.1, 0.2, 0.3]})
    assert model.mean.flatten().tolist() == [0, 0, 0] and model.std.flatten().tolist() == [1, 1, 1]


def test_images_are_resized_to_the_input_size(prepared: str) -> None:
    data, _ = load_data_and_model(prepared, SETTINGS | {"input_size": 20})
    assert data.train.pixels.shape == (10, 3, 20, 20)


def test_the_seed_decides_the_initial_weights(prepared: str) -> None:
    first, again, other = (whole(load_data_and_model(prepared, SETTINGS, seed)[1].network) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
