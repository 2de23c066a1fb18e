"""A prepared dataset and the settings of a job give data and a model that fit each other."""

from pathlib import Path

import pytest
import torch
from tiny import assert_same, pictures, whole

from neuralign.common.errors import UserError
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.storage import save
from neuralign.networks.setup import device, load_data_and_model

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


@pytest.mark.parametrize("visible", ["0", "GPU-8f3a,GPU-11c2", " 3 ,1"])
def test_a_gpu_that_is_assigned_and_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040)")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    name = visible.split(",")[0].strip()
    message = (
        f"names the GPU {name}, which torch .* cannot use: RuntimeError: The NVIDIA driver on your system is too old"
    )
    with pytest.raises(UserError, match=message) as error:
        device()
    assert "--resources gpu=0" in str(error.value) and "\n" not in str(error.value)


def test_on_a_gpu_cudnn_is_deterministic_and_only_convolutions_run_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = False, False, True
    try:
        assert device() == torch.device("cuda")
        assert (cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32) == (True, True, False)
    finally:
        cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize("visible", ["", "-1", None])
def test_without_a_gpu_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device() == torch.device("cpu")
