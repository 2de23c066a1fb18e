"""Matching of units by the rank of their mean activation: fast, and good for nothing but an example."""

from dataclasses import replace

from torch import Tensor

from neuralign.alignment.activations import unit_moments
from neuralign.alignment.problem import Problem
from neuralign.config.options import Count


def mean_ranks(problem: Problem, *, images: Count = 1000) -> dict[str, Tensor]:
    """The permutation that gives units of the same rank by mean activation the same place; {group: (n,)}.

    Args:
        images: Number of training images, the first in file order.
    """
    subset, permutation = replace(problem, examples=problem.examples.first(images)), {}
    for group, taps in unit_moments(subset).items():
        target, source = sum(moments.means() for moments in taps.values()).argsort(stable=True)
        permutation[group] = source[target.argsort()]
    return permutation
