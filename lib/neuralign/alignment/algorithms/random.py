"""A control: neurons relabelled at random, which costs a network nothing and a path everything."""

from torch import Tensor

from neuralign.alignment.problem import Problem
from neuralign.common.seeding import stream
from neuralign.config.options import Seed
from neuralign.symmetry import permutations


def random(problem: Problem, *, seed: Seed = 0) -> dict[str, Tensor]:
    """A uniformly random admissible permutation; {group: (n,)}.

    Args:
        seed: Seed of the permutation.
    """
    return permutations.random(problem.trace.spec, stream(seed, "random alignment"))
