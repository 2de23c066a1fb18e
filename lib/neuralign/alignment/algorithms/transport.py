"""Optimal transport of activations (Singh & Jaggi 2020; "w2" in the paper)."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.activations import unit_moments
from neuralign.alignment.birkhoff import assign
from neuralign.alignment.problem import Problem
from neuralign.config.options import Count


def transport(
    problem: Problem, *, images: Count = 10_000, batch_size: Count = 64, read: Literal["post", "pre"] = "post"
) -> dict[str, Tensor]:
    """The permutation P that minimises the squared distance of the target's activations to P times the source's.

    This is the optimal transport plan for the Wasserstein-2 distance between the units of both networks, taken as equal
    masses. The squared norms do not depend on P, so the sum of the products of matched units is maximised. Returns
    {group: (n,)}.

    Args:
        images: Number of training images, the first in file order.
        batch_size: Images per batch.
        read: Whether activations are read after (`post`) or before (`pre`) the nonlinearity.
    """
    subset = replace(problem, examples=problem.examples.first(images))
    moments = unit_moments(subset, batch_size=batch_size, read=read)
    return {
        group: assign(sum((m.products() for m in taps.values()), torch.tensor(0.0))) for group, taps in moments.items()
    }
