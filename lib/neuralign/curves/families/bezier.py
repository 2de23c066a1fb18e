"""Bezier curves (Garipov et al. 2018; the paper's section 2 uses one bend)."""

from math import comb

import torch
from torch import Tensor

from neuralign.config.options import Count


def bezier(t: Tensor, *, bends: Count = 1) -> Tensor:
    """The Bernstein polynomials of degree bends + 1 at a scalar t, as weights (bends + 2,).

    Args:
        bends: Control points between the two endpoints.
    """
    degree = bends + 1
    k = torch.arange(degree + 1, dtype=t.dtype)
    return torch.tensor([comb(degree, i) for i in range(degree + 1)], dtype=t.dtype) * t**k * (1 - t) ** k.flip(0)
