"""Polygonal chains (Garipov et al. 2018)."""

import torch
from torch import Tensor

from neuralign.config.options import Count


def chain(t: Tensor, *, bends: Count = 1) -> Tensor:
    """Hat-function weights (bends + 2,) at t: straight pieces through evenly spaced bends.

    Args:
        bends: Corners between the two ends.
    """
    return (1 - (t * (bends + 1) - torch.arange(bends + 2, dtype=t.dtype)).abs()).clamp(min=0)
