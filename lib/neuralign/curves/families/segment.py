"""The straight line between the endpoints: nothing to train, the baseline every curve is compared with."""

import torch
from torch import Tensor


def segment(t: Tensor) -> Tensor:
    """Weights (2,) of linear interpolation at t."""
    return torch.stack([1 - t, t])
