"""Optimal transport of activations: the units that lie closest to each other (Singh & Jaggi 2020; the paper's "w2")."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.problem import Problem, assign, unit_moments
from neuralign.config.options import Count


def transport(
    problem: Problem, *, images: Count = 10_000, batch_size: Count = 64, read: Literal["post", "pre"] = "post"
) -> dict[str, Tensor]:
    """The permutation P that minimises the sum of squares of target's minus P source's activations; {group: (n,)}.

    The squared norms do not depend on P, so the raw cross products are maximised: the Wasserstein-2 distance between
    units as equal masses, whose optimal plan is a permutation.

    Args:
        images: Number of training images, the first in file order.
        batch_size: Images per batch.
        read: Whether activations are read after (`post`) or before (`pre`) the nonlinearity.
    """
    found = unit_moments(replace(problem, images=problem.images.first(images)), batch_size=batch_size, read=read)
    return {
        group: assign(sum((m.products() for m in taps.values()), torch.tensor(0.0))) for group, taps in found.items()
    }
