"""Several networks to align at once, and the certificates of a solution.

Every network gets a permutation of its own into one frame, that of the first network. So the permutation that aligns b
with a, then the one that aligns c with b, is exactly the one that aligns c with a. Alignments of all pairs on their own
need not agree in this way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from neuralign.alignment.problem import Problem, certificate
from neuralign.common.errors import UserError
from neuralign.datasets.batches import Examples, Transform
from neuralign.datasets.images import as_is
from neuralign.networks.model import Model, State
from neuralign.symmetry.certificate import Certificate
from neuralign.symmetry.permutations import Permutation, compose, inverse
from neuralign.symmetry.tracing.trace import Trace
from neuralign.training.objective import Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.progress import Attack, Keeper

Permutations = tuple[dict[str, Tensor], ...]  # one for each network of a cohort


@dataclass(frozen=True)
class Cohort:
    """Networks to align with each other, the method that aligns two of them, and what that method may need.

    Raises UserError unless there are at least two networks, each with a positive weight if there are weights.
    """

    model: Model
    trace: Trace  # of the model
    states: Sequence[State]  # the networks, of which the first stays
    inner: Callable[[Problem], Permutation]  # an alignment of two networks
    examples: Examples  # those on which the networks are compared
    transform: Transform = as_is  # how these examples are varied, as in the training
    weights: Sequence[float] | None = None  # of the networks in the merged one; they sum to one; None: all are equal
    attack: Attack | None = None  # the attack that the networks were trained with
    objective: Objective = CLASSIFICATION  # of the training
    keeper: Callable[[str], Keeper | None] = lambda training: None  # name of a training -> what saves its progress
    facts: dict[str, Any] = field(default_factory=dict)  # what the method reports besides the permutations

    def __post_init__(self) -> None:
        count = len(self.states)
        if count < 2:
            raise UserError(f"found {count} networks; at least two are needed")
        weights = self.shares
        if len(weights) != count or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-6:
            raise UserError(f"weights: found {list(weights)}; {count} positive numbers that sum to 1 are needed")

    @cached_property
    def shares(self) -> Sequence[float]:
        """The weight of every network in the merged one."""
        return [1 / len(self.states)] * len(self.states) if self.weights is None else self.weights

    def problem(self, target: State, member: int, start: Permutation | None, name: str) -> Problem:
        """The alignment of one of the networks with `target`; `name`: of the run, for what saves its progress."""
        return Problem(
            self.model,
            self.trace,
            target,
            self.states[member],
            self.examples,
            self.transform,
            start,
            self.attack,
            self.objective,
            lambda training: self.keeper(f"{name}_{training}"),
        )


def search(cohort: Cohort, method: Callable[[Cohort], Permutations]) -> Permutations:
    """The permutations that a method finds; empty ones, without a search, if nothing may be permuted."""
    return method(cohort) if cohort.trace.spec.free else tuple({} for _ in cohort.states)


def certificates(
    cohort: Cohort, permutations: Sequence[Permutation], *, images: int = 32, tolerance: float | None = None
) -> list[Certificate]:
    """The `alignment.problem.certificate` of every network's permutation, whose arguments and exceptions it shares."""
    problems = [cohort.problem(cohort.states[0], p, None, "certificate") for p in range(len(cohort.states))]
    return [
        certificate(problem, permutation, images=images, tolerance=tolerance)
        for problem, permutation in zip(problems, permutations, strict=True)
    ]


def in_frame_of_first(permutations: Sequence[Permutation]) -> Permutations:
    """The permutations into the frame of the first network: its own becomes the identity."""
    back = inverse(permutations[0])
    return tuple(compose(permutation, back) for permutation in permutations)


def between(permutations: Sequence[Permutation], target: int, source: int) -> dict[str, Tensor]:
    """The permutation that aligns one network of a cohort, `source`, with another, `target`."""
    return compose(permutations[source], inverse(permutations[target]))
