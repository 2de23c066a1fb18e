"""The straight line between the endpoints: it has nothing to train, and is the baseline of all curves."""

import torch
from torch import Tensor


def segment(t: Tensor) -> Tensor:
    """The weights of linear interpolation at t, (2,)."""
    return torch.stack([1 - t, t])
