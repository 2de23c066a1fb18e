"""Frank-Wolfe over doubly stochastic matrices, and rounding of what it finds to permutations."""

from collections.abc import Collection
from math import inf
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from neuralign.alignment.agreement import MatchingObjective, Matrices
from neuralign.alignment.birkhoff import assign, largest_at, to_matrix
from neuralign.symmetry.permutations import Permutation


class Polynomial(MatchingObjective, Protocol):
    """An objective whose degree is known, and which is a sum over tensors."""

    @property
    def names(self) -> Collection[str]:
        """The tensors that count."""
        ...

    def soft_value(self, matrices: Matrices, names: Collection[str] | None = None) -> Tensor:
        """See `MatchingObjective`. `names`: the tensors that count; None: all. The value is the sum over them."""
        ...

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
    value, gradient = _value_and_gradient(objective, matrices)
    step, gain = 0, inf
    while step < steps and gain > tolerance * abs(value):
        step += 1
        vertex = {g: assign(s) for g, s in gradient.items()}
        t, gain = _best_on_line(objective, matrices, vertex, value, gradient)
        matrices = _mixture(matrices, {g: to_matrix(p) for g, p in vertex.items()}, t)
        if objective.degree > 2:
            value, gradient = _value_and_gradient(objective, matrices)
        else:  # the gradient is affine, so that it is a mixture too, and that at a permutation takes less time
            value, gradient = value + gain, _mixture(gradient, {g: objective.score(g, vertex) for g in vertex}, t)
    return round_groupwise(objective, matrices), matrices, step


def _value_and_gradient(objective: Polynomial, matrices: Matrices) -> tuple[float, dict[str, Tensor]]:
    """The objective at these matrices, and {group: its derivative (n, n)}."""
    leaves = {g: m.detach().requires_grad_() for g, m in matrices.items()}
    total, gradient = 0.0, {g: torch.zeros_like(m) for g, m in matrices.items()}
    for name in objective.names:  # tensor by tensor, for the gradient needs several copies of each in float64
        value = objective.soft_value(leaves, [name])
        total += float(value.detach())
        for part, whole in zip(
            torch.autograd.grad(value, list(leaves.values()), allow_unused=True), gradient.values(), strict=True
        ):
            if part is not None:
                whole += part
    return total, gradient


def soft_value(objective: Polynomial, matrices: Matrices) -> float:
    """The objective at these matrices, computed tensor by tensor."""
    return sum(float(objective.soft_value(matrices, [name])) for name in objective.names)


def _best_on_line(
    objective: Polynomial, start: Matrices, vertex: Permutation, value: float, gradient: Matrices
) -> tuple[float, float]:
    """(t, gain) where the objective is largest on the line from `start`, at t = 0, to a permutation, at t = 1.

    What is known of the polynomial are its value and derivative at 0 and its value at 1, which takes little time; the
    rest of its values are computed between them.

    Args:
        value, gradient: of the objective at the start.
    """
    end = {g: to_matrix(p) for g, p in vertex.items()}
    rise = sum(float((s * (end[g] - start[g])).sum()) for g, s in gradient.items())
    degree = max(2, objective.degree)
    ts = [1.0, *(i / (degree - 1) for i in range(1, degree - 1))]
    values = [objective.value(vertex), *(soft_value(objective, _mixture(start, end, t)) for t in ts[1:])]
    powers = np.array([[t**k for k in range(degree, 1, -1)] for t in ts])
    higher = np.linalg.solve(powers, [v - value - rise * t for v, t in zip(values, ts, strict=True)])
    gains = np.array([*higher, rise, 0.0])
    t = largest_at(gains)
    return t, float(np.polyval(gains, t))


def _mixture(start: Matrices, end: Matrices, t: float) -> dict[str, Tensor]:
    """(1 - t) start + t end, for each group."""
    return {g: torch.lerp(m, end[g], t) for g, m in start.items()}


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
