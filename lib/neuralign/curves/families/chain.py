"""Polygonal chains (Garipov et al. 2018)."""

import torch
from torch import Tensor

from neuralign.config.options import Count


def chain(t: Tensor, *, bends: Count = 1) -> Tensor:
    """Hat functions at a scalar t, as weights (bends + 2,): straight pieces that meet at t = i / (bends + 1).

    Args:
        bends: Corners between the two endpoints.
    """
    return (1 - (t * (bends + 1) - torch.arange(bends + 2, dtype=t.dtype)).abs()).clamp(min=0)
