"""The straight line between the endpoints: it has no bends to train, and is the baseline of all curves."""

import torch
from torch import Tensor


def segment(t: Tensor) -> Tensor:
    """The weights (2,) of linear interpolation at a scalar t."""
    return torch.stack([1 - t, t])
