"""Augmentation: random changes of a whole batch of images at once, on its device.

A plug-in of `augmentations/`, `name(batch, *, ...options)`, draws random numbers, one for each image, and returns a

* `Motion`, which says from which pixel of the image each pixel of the result is read. Consecutive motions are composed
  as maps of integer coordinates, and the pixels are gathered once. The result is the same as if the motions were
  applied one after the other; or a
* `Tint`, a function of float images in [0, 1] that changes values but moves no pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.config.plugins import Entry, plugin
from neuralign.datasets.batches import Examples, Transform
from neuralign.datasets.images import Images, ImagesOnDisk, as_float


@dataclass(frozen=True)
class Batch:
    """What a plug-in sees of a batch: the number and size of the images, and random numbers, but no pixels."""

    count: int
    height: int
    width: int
    device: torch.device
    generator: torch.Generator  # on any device, where the numbers are drawn before they are moved to `device`

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high), one for each image: float32 (n, 1, 1)."""
        draws = torch.rand(self.count, 1, 1, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * draws).to(self.device)

    def integers(self, low: int, high: int) -> Tensor:
        """Uniform integers from low to high, both included, one for each image: int32 (n, 1, 1)."""
        shape, device = (self.count, 1, 1), self.generator.device
        draws = torch.randint(low, high + 1, shape, generator=self.generator, device=device, dtype=torch.int32)
        return draws.to(self.device)


@dataclass(frozen=True)
class Motion:
    """Where each pixel of the result is read from; pixels outside the image are black."""

    # (rows, columns) of the result -> (rows, columns) of the image; int32 tensors that broadcast to (n, h, w), so rows
    # may have shape (1, h, 1) and columns (1, 1, w)
    source: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


Tint = Callable[[Tensor], Tensor]  # float32 (n, c, h, w) in [0, 1] -> the same


def augmented(examples: Examples, entries: Sequence[Entry], seed: int) -> Examples:
    """The examples, augmented by these config entries and rounded to 8 bits; as they are if there are none.

    They are augmented when they are read, and the same whenever the same ones are read together. Raises UserError as
    `transform_of`.
    """
    transform = transform_of(entries, examples)
    if not entries or not isinstance(examples, Images):
        return examples

    def read(rows: Tensor) -> Images:
        pixels, labels = examples.take(rows, transform, stream(seed, "augmented", rows[:1].tolist()))
        return Images((pixels * 255).round().to(torch.uint8), labels).to(torch.device("cpu"))

    shapes, labels = torch.empty_like(examples.pixels, device="meta"), examples.labels.cpu()
    return ImagesOnDisk(shapes, labels, read=read, rows=torch.arange(len(examples)), place=examples.device)


def transform_of(entries: Sequence[Entry], examples: Examples) -> Transform:
    """The `pipeline` of these config entries. Raises UserError if there are some and the examples are no images."""
    if entries and not isinstance(examples, Images):
        names = ", ".join(str(entry["use"]) for entry in entries)
        raise UserError(f"augment: found {names}, which vary images; the dataset holds other data, so [] is needed")
    return pipeline(entries)


def pipeline(entries: Sequence[Entry]) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The augmentations of these config entries, in their order, as one function (images, generator) -> images.

    It takes uint8 images (n, c, h, w) and returns float32 images (n, c, h, w) in [0, 1], channels last in memory.
    """
    plugins = [plugin("augmentations", entry) for entry in entries]

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        batch = Batch(count, height, width, images.device, generator)
        changes: list[Motion | Tint] = [draw(batch) for draw in plugins]
        motions: list[Motion] = []
        for change in changes:
            if isinstance(change, Motion):
                motions.append(change)
            else:
                images, motions = change(_to_float(move(images, motions))), []
        return _to_float(move(images, motions))

    return augment


def move(images: Tensor, motions: Sequence[Motion]) -> Tensor:
    """The images (n, c, h, w) after all motions, of the same dtype; channels last in memory if there is any motion."""
    if not motions:
        return images
    n, c, h, w = images.shape
    rows, cols, inside = _compose(motions, h, w, images.device)
    start = torch.arange(0, n * h * w, h * w, dtype=torch.int32, device=images.device).view(n, 1, 1)
    pixels = images.permute(0, 2, 3, 1).reshape(n * h * w, c)
    moved = pixels.index_select(0, (start + rows * w + cols).flatten()).view(n, h, w, c)
    return moved.mul_(inside.unsqueeze(-1)).permute(0, 3, 1, 2)


def _compose(motions: Sequence[Motion], h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, columns, inside): where each pixel is read from (int32), and whether that lies inside the image (bool).

    All broadcast to (n, h, w).
    """
    rows = torch.arange(h, dtype=torch.int32, device=device).view(1, h, 1)
    cols = torch.arange(w, dtype=torch.int32, device=device).view(1, 1, w)
    inside = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    for motion in reversed(motions):  # the last motion reads from the result of the one before
        source_rows, source_cols = motion.source(rows, cols)
        rows, cols = source_rows.clamp(0, h - 1), source_cols.clamp(0, w - 1)
        inside = inside & (rows == source_rows) & (cols == source_cols)  # outside of any intermediate image: black
    return rows, cols, inside


def _to_float(images: Tensor) -> Tensor:
    """The images as float32 in [0, 1], channels last in memory; float images are in [0, 1] already."""
    return images.contiguous(memory_format=torch.channels_last) if images.is_floating_point() else as_float(images)
