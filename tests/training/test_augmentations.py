"""Augmentations: exact maps of pixels, distributions, and properties of every plug-in."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from neuralign.common.errors import UserError
from neuralign.config.signatures import plugins
from neuralign.datasets.arrays import Arrays
from neuralign.datasets.images import Images, as_float
from neuralign.training.augmentation import Batch, Motion, move, pipeline
from neuralign.training.augmentation import augmented as augmented_when_read
from neuralign.training.augmentations.affine import affine, turn
from neuralign.training.augmentations.crop import crop
from neuralign.training.augmentations.flip import flip
from neuralign.training.augmentations.jitter import contrasted, jitter, saturated

OPTIONS: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 30, "scale": [0.8, 1.2]},
    "jitter": {"contrast": 0.25, "saturation": 0.25},
}
NAMES = plugins("augmentations")
SHAPES = [(5, 3, 32, 32), (1, 3, 16, 16), (4, 1, 28, 28), (3, 3, 17, 33), (2, 2, 9, 8), (2, 3, 1, 1)]
CIFAR: list[dict[str, Any]] = [{"use": "affine", "degrees": 15}, {"use": "flip"}, {"use": "crop"}]
TINY_IMAGENET = [*CIFAR[1:], {"use": "affine", **OPTIONS["affine"]}, {"use": "jitter", **OPTIONS["jitter"]}]


def entry(name: str) -> dict[str, Any]:
    return {"use": name, **OPTIONS.get(name, {})}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=seeded(seed))  # no black but outside


def batch_of(images: Tensor, seed: int = 0) -> Batch:
    count, _, height, width = images.shape
    return Batch(count, height, width, images.device, seeded(seed))


def augmented(images: Tensor, entries: Sequence[dict[str, Any]], seed: int = 0) -> Tensor:
    return pipeline(entries)(images, seeded(seed))


def as_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


# --- every plug-in ---------------------------------------------------------------------------------------------------


def test_every_augmentation_is_covered() -> None:
    assert {"affine", "crop", "flip", "jitter"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_images_and_the_input_stays(name: str, shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    before = images.clone()
    result = augmented(images, [entry(name)])
    assert result.shape == images.shape and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.isfinite().all() and 0 <= result.min() and result.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_results_depend_on_the_seed_and_differ_between_images(name: str) -> None:
    images = pictures(1, 3, 32, 32).expand(16, -1, -1, -1)
    first = augmented(images, [entry(name)])
    assert torch.equal(first, augmented(images, [entry(name)]))
    assert not torch.equal(first, augmented(images, [entry(name)], seed=1))
    assert len(first.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_of_the_images_does_not_matter(name: str) -> None:
    images = pictures(4, 3, 17, 20)
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmented(images, [entry(name)]), augmented(other, [entry(name)]))


@pytest.mark.parametrize("entries", [CIFAR, TINY_IMAGENET])
def test_the_device_does_not_matter(entries: list[dict[str, Any]]) -> None:
    """The numbers come from the generator's device; the images' device may be another ("meta" computes nothing)."""
    result = pipeline(entries)(torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="meta"), seeded())
    assert result.device.type == "meta" and result.shape == (4, 3, 32, 32)


# --- composition -----------------------------------------------------------------------------------------------------


def test_an_empty_pipeline_only_converts() -> None:
    images = pictures(3, 3, 8, 8)
    assert torch.equal(augmented(images, []), images / 255)
    assert torch.equal(augmented(images, []), as_float(images))


@pytest.mark.parametrize("names", [*permutations(["affine", "flip", "crop"]), ("affine", "crop", "affine", "crop")])
@pytest.mark.parametrize("shape", SHAPES)
def test_composed_motions_equal_motions_one_after_the_other(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    images = expected = pictures(*shape)
    steps = [
        {"use": name, **({"degrees": 180, "scale": [0.5, 1.5]} if name == "affine" else {}), **extra}
        for name, extra in ((n, {"pad": 0.4} if n == "crop" else {}) for n in names)
    ]
    one_by_one = seeded(7)
    for step in steps:
        expected = as_bytes(pipeline([step])(expected, one_by_one))
    assert torch.equal(as_bytes(augmented(images, steps, seed=7)), expected)


def test_steps_take_place_in_the_order_of_the_list() -> None:
    images = pictures(64, 3, 8, 8)
    first, second = Motion(lambda r, c: (r, c + 1)), Motion(lambda r, c: (r, 7 - c))  # shift left, then mirror
    shifted = torch.cat([images[..., 1:], torch.zeros_like(images[..., :1])], -1)
    assert torch.equal(move(images, [first, second]), shifted.flip(-1))
    assert not torch.equal(move(images, [second, first]), shifted.flip(-1))


def test_pixels_that_were_moved_out_of_the_image_stay_black() -> None:
    images = pictures(2, 3, 8, 8)
    away, back = Motion(lambda r, c: (r - 3, c)), Motion(lambda r, c: (r + 3, c))
    moved = move(images, [away, back])
    assert torch.equal(moved[:, :, :5], images[:, :, :5]) and not moved[:, :, 5:].any()


def test_motions_and_tints_mix_in_any_order() -> None:
    images, jit = pictures(6, 3, 12, 12), entry("jitter")
    generator = seeded(3)
    tinted = pipeline([jit])(images, generator)
    expected = move(tinted, [crop(Batch(6, 12, 12, images.device, generator))])
    result = augmented(images, [jit, {"use": "crop"}], seed=3)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert not torch.equal(result, augmented(images, [{"use": "crop"}, jit], seed=3))


# --- flip and crop ---------------------------------------------------------------------------------------------------


def test_flip_always_and_never() -> None:
    images = pictures(5, 3, 8, 11)
    assert torch.equal(augmented(images, [{"use": "flip", "probability": 1}]), images.flip(-1) / 255)
    assert torch.equal(augmented(images, [{"use": "flip", "probability": 0}]), images / 255)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_flip_as_often_as_asked(probability: float) -> None:
    images = pictures(1, 1, 1, 2).expand(20_000, -1, -1, -1)
    moved = move(images, [flip(batch_of(images), probability=probability)])
    assert (moved != images).any(-1).float().mean().item() == pytest.approx(probability, abs=0.015)


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (64, 1, 16, 24), (8, 3, 7, 9)])
def test_crop_is_a_slice_of_the_padded_image(shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    n, _, h, w = shape
    border_h, border_w = round(h / 8), round(w / 8)
    padded = torch.nn.functional.pad(images, (border_w, border_w, border_h, border_h))
    numbers = batch_of(images)  # the same generator, asked in the same order
    down, right = numbers.integers(-border_h, border_h), numbers.integers(-border_w, border_w)
    top, left = (down + border_h).flatten().tolist(), (right + border_w).flatten().tolist()
    expected = torch.stack([padded[i, :, top[i] : top[i] + h, left[i] : left[i] + w] for i in range(n)])
    assert torch.equal(move(images, [crop(batch_of(images))]), expected)


def test_crop_takes_every_window_equally_often() -> None:
    images = torch.zeros(16_200, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 1
    spot = move(images, [crop(batch_of(images))]).flatten(1).int().argmax(1)
    windows, counts = spot.unique(return_counts=True)
    assert len(windows) == 81
    chi2 = ((counts - 200.0) ** 2 / 200).sum().item()
    assert chi2 < 120  # 80 degrees of freedom: exceeded once in 400


@pytest.mark.parametrize("side, border", [(32, 4), (64, 8), (28, 4), (16, 2)])
def test_the_border_of_a_crop_is_a_fraction_of_the_side(side: int, border: int) -> None:
    rows, cols = crop(Batch(4_000, side, side, torch.device("cpu"), seeded())).source(
        torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, dtype=torch.int32)
    )
    assert [rows.min(), rows.max(), cols.min(), cols.max()] == [-border, border] * 2


# --- affine ----------------------------------------------------------------------------------------------------------


def turned(images: Tensor, degrees: Tensor, zoom: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    angle, zoom = (x.double().view(-1, 1, 1) for x in (degrees.double().deg2rad(), zoom))
    return move(images, [turn(height, width, angle, zoom)])


@pytest.mark.parametrize("side", [16, 17, 32])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1])
def test_quarter_turns_are_exact(side: int, quarters: int) -> None:
    images = pictures(3, 3, side, side)
    result = turned(images, torch.full((3,), 90.0 * quarters), torch.ones(3))
    assert torch.equal(result, torch.rot90(images, -quarters, (2, 3)))  # clockwise, as in torchvision


@pytest.mark.parametrize("height, width", [(32, 32), (64, 64), (17, 33), (28, 21)])
def test_affine_is_torchvision_on_pil_images(height: int, width: int) -> None:
    images = pictures(40, 3, height, width)
    degrees, zoom = torch.rand(40, generator=seeded(1)) * 60 - 30, 0.8 + 0.4 * torch.rand(40, generator=seeded(2))
    zoom[:20] = 1
    expected = [
        tv.pil_to_tensor(tv.affine(Image.fromarray(x.permute(1, 2, 0).numpy()), a, [0, 0], s, [0, 0]))
        for x, a, s in zip(images, degrees.tolist(), zoom.tolist(), strict=True)
    ]
    assert torch.equal(turned(images, degrees, zoom), torch.stack(expected))


def test_affine_agrees_with_torchvision_on_tensors() -> None:
    """Except for pixels whose source lies, up to rounding, on the edge between two pixels."""
    images = pictures(40, 3, 32, 32)
    degrees, zoom = torch.rand(40, generator=seeded(1)) * 60 - 30, 0.8 + 0.4 * torch.rand(40, generator=seeded(2))
    expected = torch.stack(
        [tv.affine(x, a, [0, 0], s, [0, 0]) for x, a, s in zip(images, degrees.tolist(), zoom.tolist(), strict=True)]
    )
    assert (turned(images, degrees, zoom) == expected).float().mean() > 0.99


def test_affine_draws_angles_and_factors_evenly() -> None:
    numbers = Batch(20_000, 32, 32, torch.device("cpu"), seeded())
    motion = affine(numbers, degrees=15, scale=[0.8, 1.2])  # type: ignore[arg-type]
    origin = torch.tensor([0, 10_000], dtype=torch.int32).view(1, 1, 2)
    rows, cols = motion.source(torch.zeros(1, 1, 1, dtype=torch.int32), origin)
    step = torch.complex(cols[..., 1] - cols[..., 0].double(), rows[..., 1] - rows[..., 0].double())
    angle, factor = -step.angle().rad2deg(), 10_000 / step.abs()
    for values, low, high in ((angle, -15, 15), (factor, 0.8, 1.2)):
        uniform = ((values - low) / (high - low)).flatten().sort().values
        assert (uniform - torch.linspace(0, 1, len(uniform))).abs().max() < 0.015  # Kolmogorov-Smirnov, p = 0.0003


@pytest.mark.parametrize("scale, message", [((1.2, 0.8), "smaller factor comes first"), ((1e-4, 1.0), "too small")])
def test_affine_refuses_impossible_scales(scale: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"scale: found .*{message}"):
        affine(Batch(1, 32, 32, torch.device("cpu"), seeded()), scale=scale)


# --- jitter ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("change, oracle", [(contrasted, tv.adjust_contrast), (saturated, tv.adjust_saturation)])
@pytest.mark.parametrize("factor", [0.0, 0.75, 1.0, 1.25, 2.0])
def test_contrast_and_saturation_are_those_of_torchvision(
    change: Any, oracle: Any, channels: int, factor: float
) -> None:
    images = torch.rand(4, channels, 12, 10, generator=seeded())
    expected = torch.stack([oracle(image, factor) for image in images])
    torch.testing.assert_close(change(images, torch.full((4, 1, 1, 1), factor)), expected, rtol=0, atol=1e-6)


def test_jitter_changes_contrast_and_saturation_in_both_orders() -> None:
    images = torch.rand(200, 3, 6, 6, generator=seeded(1))
    numbers = batch_of(images)  # the same generator, asked in the same order
    contrast, saturation = numbers.uniform(0.2, 1.8).flatten(), numbers.uniform(0.5, 1.5).flatten()
    saturated_first = (numbers.uniform() < 0.5).flatten()
    assert 60 < saturated_first.sum() < 140

    def one(image: Tensor, c: float, s: float, first: bool) -> Tensor:
        if first:
            return tv.adjust_contrast(tv.adjust_saturation(image, s), c)
        return tv.adjust_saturation(tv.adjust_contrast(image, c), s)

    draws = (contrast.tolist(), saturation.tolist(), saturated_first.tolist())
    expected = torch.stack([one(*args) for args in zip(images, *draws, strict=True)])
    result = jitter(batch_of(images), contrast=0.8, saturation=0.5)(images)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


def test_jitter_of_nothing_changes_no_bit() -> None:
    for channels in (1, 2, 3):
        images = torch.rand(4, channels, 5, 5, generator=seeded())
        assert torch.equal(jitter(batch_of(images))(images), images)


def test_strong_jitter_stays_within_0_and_1() -> None:
    images = pictures(50, 3, 8, 8)
    result = augmented(images, [{"use": "jitter", "contrast": 5, "saturation": 5}])
    assert result.isfinite().all() and 0 <= result.min() and result.max() <= 1


def test_augmented_images_have_eight_bits_and_are_the_same_in_each_pass() -> None:
    images = Images(pictures(30, 3, 8, 8), torch.arange(30))

    def read(entries: list[dict[str, object]], seed: int) -> Images:
        (part,) = augmented_when_read(images, entries, seed).parts([torch.arange(29, -1, -1)])
        return part

    flipped = read([{"use": "flip", "probability": 1.0}], 0)
    assert torch.equal(flipped.pixels, images.pixels.flip(0, 3)) and torch.equal(flipped.labels, images.labels.flip(0))
    first, again, other = (read(CIFAR, seed).pixels for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.dtype == torch.uint8
    assert augmented_when_read(images, [], 0) is images
    arrays = Arrays(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(UserError, match="augment: found flip, which vary images"):
        augmented_when_read(arrays, [{"use": "flip"}], 0)
