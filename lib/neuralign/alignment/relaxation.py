"""Frank-Wolfe over doubly stochastic matrices, and rounding of what it finds to permutations."""

from math import inf
from typing import Protocol

import torch
from torch import Tensor

from neuralign.alignment.agreement import MatchingObjective, Matrices
from neuralign.alignment.birkhoff import assign, best_step, to_matrix


class Polynomial(MatchingObjective, Protocol):
    """An objective whose degree is known."""

    @property
    def degree(self) -> int:
        """Its degree along a straight line of matrices."""
        ...


def relax(
    objective: Polynomial, start: Matrices, *, steps: int, tolerance: float
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """(permutation, doubly stochastic matrices before rounding, steps): all groups are matched at once.

    Each step goes towards the permutations that the gradient favours, as far as the objective rises: along that line it
    is a polynomial, whose maximum is computed (Vogelstein et al. 2015; Crisostomi et al. 2024). It ends when a step
    gains less than `tolerance` times the objective.
    """
    matrices = {g: m.double() for g, m in start.items()}
    step, value, before = 0, float(objective.soft_value(matrices)), -inf
    while step < steps and value - before > tolerance * abs(value):
        step += 1
        leaves = {g: m.detach().requires_grad_() for g, m in matrices.items()}
        gradients = torch.autograd.grad(objective.soft_value(leaves), list(leaves.values()))
        vertices = {g: to_matrix(assign(s)) for g, s in zip(leaves, gradients, strict=True)}

        matrices = _best_on_line(objective, matrices, vertices)
        before, value = value, float(objective.soft_value(matrices))
    return round_groupwise(objective, matrices), matrices, step


def _best_on_line(objective: Polynomial, start: Matrices, end: Matrices) -> dict[str, Tensor]:
    """The matrices on the line from `start` to `end` at which the objective is largest."""

    def along(t: float) -> dict[str, Tensor]:
        return {g: torch.lerp(m, end[g], t) for g, m in start.items()}

    return along(best_step(lambda t: float(objective.soft_value(along(t))), objective.degree))


def round_groupwise(objective: Polynomial, matrices: Matrices) -> dict[str, Tensor]:
    """The permutations to which doubly stochastic matrices are rounded, one group after another.

    The objective is affine in the matrix of a single group, so that the best permutation of the group is at least as
    good as its matrix while the others stay: nothing is lost. For other groups the better of the score's and of the
    matrix's own assignment is taken.
    """
    rounded, current = dict[str, Tensor](), dict(matrices)
    for group in objective.spec.free:
        candidates = [assign(objective.soft_score(group, current))]
        if group not in objective.single:
            candidates.append(assign(current[group]))
            candidates.sort(key=lambda p: float(objective.soft_value({**current, group: to_matrix(p)})), reverse=True)
        rounded[group] = candidates[0]
        current[group] = to_matrix(candidates[0])
    return rounded


def row_entropy(matrices: Matrices) -> float:
    """The mean entropy of the rows of doubly stochastic matrices, divided by that of a uniform row; 0 to 1."""
    rows = [-torch.special.xlogy(m, m).sum(1) / torch.tensor(len(m)).log() for m in matrices.values() if len(m) > 1]
    return float(torch.cat(rows).mean()) if rows else 0.0
