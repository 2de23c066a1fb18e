"""Activation matching by covariance: like `correlation`, but units that vary more count more. With products of raw
activations instead it is `transport`."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.activations import unit_moments
from neuralign.alignment.birkhoff import assign
from neuralign.alignment.problem import Problem
from neuralign.config.options import Count


def covariance(
    problem: Problem, *, images: Count = 10_000, batch_size: Count = 64, read: Literal["post", "pre"] = "post"
) -> dict[str, Tensor]:
    """The permutation that maximises the sum of the covariances of matched units, {group: (n,)}.

    Args:
        images: Number of training images, the first in file order.
        batch_size: Images per batch.
        read: Whether activations are read after (`post`) or before (`pre`) the nonlinearity.
    """
    subset = replace(problem, examples=problem.examples.first(images))
    moments = unit_moments(subset, batch_size=batch_size, read=read)
    problem.facts["images"] = len(subset.examples)
    return {
        group: assign(sum((m.covariance() for m in taps.values()), torch.tensor(0.0)))
        for group, taps in moments.items()
    }
