"""Polygonal chains (Garipov et al. 2018)."""

import torch
from torch import Tensor

from neuralign.config.options import Count


def chain(t: Tensor, *, bends: Count = 1) -> Tensor:
    """Hat functions at t, (bends + 2,): straight pieces between control points at evenly spaced t."""
    return (1 - (t * (bends + 1) - torch.arange(bends + 2, dtype=t.dtype)).abs()).clamp(min=0)
