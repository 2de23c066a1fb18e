"""A control: neurons relabelled at random, which costs a network nothing and a path everything."""

from torch import Tensor

from neuralign import symmetry
from neuralign.align import Problem
from neuralign.options import Seed
from neuralign.seeding import stream


def random(problem: Problem, *, seed: Seed = 0) -> dict[str, Tensor]:
    """A uniformly random admissible permutation; {group: (n,)}."""
    return symmetry.random(problem.trace.spec, stream(seed, "random alignment"))
