"""A random permutation, as a control: it leaves the network's function unchanged and makes paths as bad as chance."""

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
    problem.facts["images"] = 0
    return permutations.random(problem.trace.spec, stream(seed, "random alignment"))
