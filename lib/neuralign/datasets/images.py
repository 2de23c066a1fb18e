"""Prepared datasets of images, and mini-batches of them without a Python loop over images.

They are in the memory of the device or, if they do not fit there, on disk (`on_disk.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.common.errors import UserError
from neuralign.common.memory import fits
from neuralign.datasets.batches import Examples, Transform
from neuralign.datasets.on_disk import SPLITS, UNREADABLE, OnDisk, StoredTensor, open_dataset

BILINEAR = "bilinear"  # how images are resized, unless a hub says something else of its network


@dataclass(frozen=True)
class Images(Examples):
    """Labelled images."""

    noun = "images"
    pixels: Tensor  # uint8 (n, c, h, w)
    labels: Tensor  # int64 (n,)

    def __post_init__(self) -> None:
        for name, values in (("images", self.pixels), ("labels", self.labels)):
            if not isinstance(values, Tensor):
                raise UserError(f"{name} are {type(values).__name__}; a tensor is needed")

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor | slice) -> "Images":
        """The images with these indices, in their order."""
        return Images(self.pixels[index], self.labels[index])

    def to(self, device: torch.device) -> "Images":
        """The images on this device."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def balanced(self, count: int) -> "Images":
        """Up to `count` images, the first of each class in file order; equally many per class, give or take one."""
        classes = self.labels.unique()
        share, rest = divmod(count, len(classes))
        by_class = [(self.labels == c).nonzero()[: share + (i < rest), 0] for i, c in enumerate(classes)]
        return self.subset(torch.cat(by_class).sort().values)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (pixels, labels) in file order, pixels float32 in [0, 1]. The last batch may be smaller."""
        for part in self.parts(self.slices(size)):
            yield as_float(part.pixels), part.labels

    def take(self, index: Tensor | slice, transform: Transform, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The augmented images of `index` and their labels."""
        return transform(self.pixels[index], draws), self.labels[index]


@dataclass(frozen=True)
class ImagesOnDisk(OnDisk, Images):
    """Labelled images that stay on disk: `pixels` is on the meta device, `labels` on the CPU."""


@dataclass(frozen=True)
class Data:
    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # of the training pixels in [0, 1], per channel
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return self.train.pixels.shape[1]


def load(path: str | Path, device: torch.device, size: int | None = None, interpolation: str = BILINEAR) -> Data:
    """The dataset that the rule `fetch_data` prepared, on `device`, its images resized to `size` x `size` pixels.

    None keeps their size; `interpolation` is "bilinear" or "bicubic". Images that do not fit into the memory of the
    device (`common.memory.fits`) stay on disk. Raises ValueError if the file is no such dataset.
    """
    try:
        facts, splits = open_dataset(path, ("images", "labels"))
        classes, mean, std = (tuple(facts[key]) for key in ("classes", "mean", "std"))
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a dataset that `fetch_data` wrote, or damaged: {error}") from None
    for name, (pixels, labels) in zip(SPLITS, splits, strict=True):
        check(Images(pixels.without_numbers(), labels.read_all()), len(mean), len(classes), f"{path}: {name}_")
    loaded: list[Images] = [_on_disk(pixels, labels, size, device, interpolation) for pixels, labels in splits]
    if fits(sum(images.pixels.nbytes + images.labels.nbytes for images in loaded), device):
        loaded = [
            Images(_resize(pixels.whole(), size, interpolation), labels.whole()).to(device) for pixels, labels in splits
        ]
    train, test = loaded
    return Data(train, test, classes, mean, std)


def _on_disk(
    pixels: StoredTensor, labels: StoredTensor, size: int | None, device: torch.device, interpolation: str
) -> ImagesOnDisk:
    """Images that are resized when they are read."""
    all_labels = labels.read_all()

    def read(rows: Tensor) -> Images:
        return Images(_resize(pixels.read(rows), size, interpolation), all_labels[rows])

    shapes = pixels.without_numbers()
    if size is not None:
        shapes = shapes.new_empty(*shapes.shape[:2], size, size)
    return ImagesOnDisk(shapes, all_labels, read=read, rows=torch.arange(len(all_labels)), place=device)


def check(images: Images, channels: int | None, classes: int | None, prefix: str = "") -> None:
    """Raise UserError unless these are images with labels, of so many channels and classes; None allows any number.

    `prefix` is put before `images` and `labels` in the message.
    """
    pixels, labels = images.pixels, images.labels
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[1] != (channels or pixels.shape[1]):
        needed = f"uint8 (n, {channels or 'channels'}, height, width)"
        raise UserError(f"{prefix}images are {pixels.dtype} of shape {tuple(pixels.shape)}; {needed} is needed")
    if not pixels.numel():
        raise UserError(f"{prefix}images are empty, of shape {tuple(pixels.shape)}; at least one image is needed")
    if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
        needed = f"int64 ({len(pixels)},)"
        raise UserError(f"{prefix}labels are {labels.dtype} of shape {tuple(labels.shape)}; {needed} is needed")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        allowed = "from 0" if classes is None else f"0 .. {classes - 1}"
        raise UserError(f"{prefix}labels are in {labels.min()} .. {labels.max()}; only {allowed} are allowed")


def as_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], channels last in memory."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)


def as_is(pixels: Tensor, _: torch.Generator) -> Tensor:
    """The transform that only converts pixels to floating-point numbers."""
    return as_float(pixels)


def _resize(pixels: Tensor, size: int | None, interpolation: str) -> Tensor:
    """Pixels resized by interpolation with antialiasing, as PIL does it, as uint8."""
    if size is None or tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    chunks: Sequence[Tensor] = pixels.split(4096)  # for less memory
    return torch.cat([F.interpolate(chunk, (size, size), mode=interpolation, antialias=True) for chunk in chunks])
