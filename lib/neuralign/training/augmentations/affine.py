"""Random rotation and zoom about the centre."""

import torch
from torch import Tensor

from neuralign.config.options import NonNegative, Span
from neuralign.training.augmentation import Batch, Motion


def affine(batch: Batch, *, degrees: NonNegative = 0.0, scale: Span = (1.0, 1.0)) -> Motion:
    """Each image rotated by an angle in [-degrees, degrees] and enlarged by a factor in `scale`, both uniform.

    Pixels are those of the nearest position, and black outside the image. The result has the same bits as torchvision's
    RandomAffine on PIL images, but for angles of exactly zero, where PIL computes in floating point.

    Args:
        degrees: Largest angle in either direction, in degrees.
        scale: Smallest and largest factor of enlargement.
    """
    low, high = scale
    if low > high:
        raise ValueError(f"scale: found {low}, {high}, the smaller factor comes first")
    if (batch.height + batch.width) / low >= 2**14:
        raise ValueError(f"scale: found {low}, too small for images of {batch.height}x{batch.width}")
    angle, zoom = batch.uniform(-degrees, degrees), batch.uniform(low, high)
    return turn(batch.height, batch.width, angle.double().deg2rad(), zoom.double())


def turn(height: int, width: int, angle: Tensor, zoom: Tensor) -> Motion:
    """The clockwise rotation by `angle` (radians) and enlargement by `zoom`, float64 (n, 1, 1), about the centre.

    It computes with fixed-point numbers, as PIL does; so every device reads the same pixels.
    """
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    x, y = (width - 1) / 2, (height - 1) / 2  # the centre, where pixel 0 is at 0
    # width / 2 is x + 1/2, which makes the shift by 16 bits round
    first_col = _to_fixed_point(width / 2 - cos * x - sin * y)
    first_row = _to_fixed_point(height / 2 + sin * x - cos * y)
    cosine, sine, minus_sine = map(_to_fixed_point, (cos, sin, -sin))  # at ties, -sine is rounded the other way
    return Motion(
        lambda rows, cols: (
            (first_row + cosine * rows + minus_sine * cols) >> 16,
            (first_col + cosine * cols + sine * rows) >> 16,
        )
    )


def _to_fixed_point(x: Tensor) -> Tensor:
    """The numbers as int32 fixed-point numbers, with 16 bits before and 16 bits after the point."""
    return (x * 2**16 + 0.5).floor().to(torch.int32)
