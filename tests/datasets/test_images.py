"""Prepared datasets in memory, and mini-batches of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import generator, pictures, plain
from torch import Tensor

from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.images import Data, Images, as_float, load
from neuralign.datasets.storage import save

CPU = torch.device("cpu")


def dataset(channels: int = 3, side: int = 16) -> Dataset:
    train, test = (pictures(n, side, channels, seed=n) for n in (10, 4))
    return Dataset(*(Split(s.pixels.numpy(), s.labels.numpy()) for s in (train, test)), tuple("abcde"))


def loaded(folder: Path, size: int | None = None, **options: int) -> Data:
    save(dataset(**options), folder / "data.safetensors")
    return load(folder / "data.safetensors", CPU, size)


def numbered(count: int) -> Images:
    """Images whose first pixel is their number."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return Images(pixels.contiguous(), torch.arange(count))


def test_a_prepared_dataset_is_loaded_as_it_was(tmp_path: Path) -> None:
    written, data = dataset(), loaded(tmp_path)
    for split, images in ((written.train, data.train), (written.test, data.test)):
        assert images.pixels.dtype == torch.uint8 and images.labels.dtype == torch.int64
        assert np.array_equal(images.pixels, split.inputs) and np.array_equal(images.labels, split.targets)
    assert data.classes == written.classes and data.channels == 3
    unit = written.train.inputs / 255
    assert data.mean == pytest.approx(unit.mean((0, 2, 3))) and data.std == pytest.approx(unit.std((0, 2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side, size", [(16, 32), (32, 16), (20, 13), (28, 32)])
def test_resizing_is_that_of_pil_within_one_grey_level(tmp_path: Path, channels: int, side: int, size: int) -> None:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (6, channels, side, side), np.uint8)
    labels = np.arange(6) % 2
    save(Dataset(Split(images, labels), Split(images[:2], labels[:2]), ("a", "b")), tmp_path / "data.safetensors")
    resized = load(tmp_path / "data.safetensors", CPU, size).train.pixels
    assert resized.dtype == torch.uint8 and resized.shape == (6, channels, size, size)
    for image, pixels in zip(images, resized, strict=True):
        for plane, channel in zip(image, pixels, strict=True):
            expected = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
            assert np.abs(channel.numpy().astype(int) - expected).max() <= 1


def test_images_of_the_right_size_are_not_resized(tmp_path: Path) -> None:
    assert torch.equal(loaded(tmp_path, size=16).train.pixels, loaded(tmp_path).train.pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_become_float32_in_the_unit_interval_channels_last(channels: int) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, channels, -1, -1)
    converted = as_float(pixels)
    assert converted.dtype == torch.float32
    assert converted.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(converted, pixels.float() / 255)
    assert (converted.min(), converted.max()) == (0, 1)


@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_batches_cover_the_images_once_in_file_order(size: int) -> None:
    batches = list(numbered(10).batches(size))
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    assert torch.cat([pixels[:, 0, 0, 0] * 255 for pixels, _ in batches]).round().tolist() == list(range(10))
    assert [len(labels) for _, labels in batches] == [size] * (10 // size) + ([10 % size] if 10 % size else [])


@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_shuffled_batches_cover_the_images_once_in_the_order_of_the_generator(size: int) -> None:
    images = numbered(10)
    pixels, labels = map(torch.cat, zip(*images.shuffled(size, plain, generator(1), generator(2)), strict=True))
    assert labels.tolist() == torch.randperm(10, generator=generator(1)).tolist() != list(range(10))
    assert (pixels[:, 0, 0, 0] * 255).round().tolist() == labels.tolist()


def test_the_transform_gets_whole_batches_of_bytes_and_the_generator_of_draws() -> None:
    seen, draws = [], generator(2)

    def watch(pixels: Tensor, generator: torch.Generator) -> Tensor:
        seen.append((pixels.dtype, len(pixels), generator is draws))
        return as_float(pixels)

    list(numbered(10).shuffled(4, watch, generator(1), draws))
    assert seen == [(torch.uint8, 4, True), (torch.uint8, 4, True), (torch.uint8, 2, True)]


def test_the_first_images_are_those_of_the_file() -> None:
    images = numbered(10)
    assert images.first(3).labels.tolist() == [0, 1, 2] and len(images.first(3).pixels) == 3
    assert images.first(None) is images
    assert len(images.first(99)) == 10
