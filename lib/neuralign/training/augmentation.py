"""Random changes of a whole batch of images at once, on its device, without Python work per image.

A plug-in of this folder is `name(batch, *, ...options)`. It draws its random numbers, one for each image, and returns
what they decide, either of

* a `Motion`: where each pixel of the result is read from. Motions in a row are composed as integer maps before any
  pixel is touched, exactly as if applied to the pixels one after the other: one gather, whatever their number;
* a `Tint`: a function of float images in [0, 1], for changes of the values in place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralign.config.plugins import Entry, plugin
from neuralign.datasets.images import as_float


@dataclass(frozen=True)
class Batch:
    """What a plug-in may know of the images: their size; and its random numbers, one for each image."""

    count: int
    height: int
    width: int
    device: torch.device
    generator: torch.Generator  # on any device: it alone decides the numbers

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:  # float32 (n, 1, 1)
        draws = torch.rand(self.count, 1, 1, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * draws).to(self.device)

    def integers(self, low: int, high: int) -> Tensor:  # int32 (n, 1, 1), both ends included
        shape, home = (self.count, 1, 1), self.generator.device
        draws = torch.randint(low, high + 1, shape, generator=self.generator, device=home, dtype=torch.int32)
        return draws.to(self.device)


@dataclass(frozen=True)
class Motion:
    """A map from rows and columns of the result to those of the image, int32, broadcast together to (n, h, w).

    Rows and columns outside the image are black. A map of rows alone may leave them (n, h, 1), and columns (n, 1, w).
    """

    source: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


Tint = Callable[[Tensor], Tensor]  # float32 (n, c, h, w) in [0, 1] -> the same


def pipeline(entries: Sequence[Entry]) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The augmentations of the config, in their order: uint8 images (n, c, h, w) → float32 in [0, 1], channels last."""
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
                images, motions = change(_unit(move(images, motions))), []
        return _unit(move(images, motions))

    return augment


def move(images: Tensor, motions: Sequence[Motion]) -> Tensor:
    """The images (n, c, h, w) after all motions, by one gather; channels last in memory."""
    if not motions:
        return images
    n, c, h, w = images.shape
    rows, cols, inside = _compose(motions, h, w, images.device)
    start = torch.arange(0, n * h * w, h * w, dtype=torch.int32, device=images.device).view(n, 1, 1)
    pixels = images.permute(0, 2, 3, 1).reshape(n * h * w, c)
    moved = pixels.index_select(0, (start + rows * w + cols).flatten()).view(n, h, w, c)
    return moved.mul_(inside.unsqueeze(-1)).permute(0, 3, 1, 2)


def _compose(motions: Sequence[Motion], h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns that the result reads, and whether it reads inside; int32 and bool, broadcast to (n, h, w)."""
    rows = torch.arange(h, dtype=torch.int32, device=device).view(1, h, 1)
    cols = torch.arange(w, dtype=torch.int32, device=device).view(1, 1, w)
    inside = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    for motion in reversed(motions):  # the last motion reads from the result of the one before
        away_rows, away_cols = motion.source(rows, cols)
        rows, cols = away_rows.clamp(0, h - 1), away_cols.clamp(0, w - 1)
        inside = inside & (rows == away_rows) & (cols == away_cols)  # once outside, black for good
    return rows, cols, inside


def _unit(images: Tensor) -> Tensor:
    """Float images in [0, 1], channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last) if images.is_floating_point() else as_float(images)
