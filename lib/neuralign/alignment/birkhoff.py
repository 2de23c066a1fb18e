"""The Birkhoff polytope of doubly stochastic matrices: projection onto it, and decomposition into permutations.

Functions take a batch of square matrices (..., n, n) unless their docstring says otherwise.
"""

import numpy as np
import torch
from torch import Tensor


def balance(matrices: Tensor) -> Tensor:
    """The nearest matrices whose rows and columns sum to one (entries may be negative)."""
    rows, columns = matrices.mean(-1, keepdim=True), matrices.mean(-2, keepdim=True)
    rows = rows - (rows.mean(-2, keepdim=True) + 1 / matrices.shape[-1])  # what both have in common, counted once
    return (matrices - rows).sub_(columns)


def alternate(matrices: Tensor, sweeps: int) -> Tensor:
    """Nearly doubly stochastic matrices, by `sweeps` alternating projections, as in the paper's code.

    They converge to a doubly stochastic matrix, but not to the nearest one; see `project`.
    """
    for _ in range(sweeps):
        matrices = balance(matrices.clamp(min=0))
    return matrices


def project(matrices: Tensor, *, tolerance: float = 1e-6, sweeps: int = 1000) -> Tensor:
    """The nearest doubly stochastic matrices, by Dykstra's algorithm (Boyle & Dykstra 1986); entries >= -tolerance."""
    correction = torch.zeros_like(matrices)
    for _ in range(sweeps):
        positive = (matrices + correction).clamp(min=0)
        correction = matrices + correction - positive
        matrices = balance(positive)
        if matrices.min() >= -tolerance:
            break
    return matrices


def assign(score: Tensor) -> Tensor:
    """The permutation (n,) that maximises the sum over i of score[i, permutation[i]]; score is (n, n) and finite."""
    from scipy.optimize import linear_sum_assignment  # imported here because it takes a quarter of a second

    _, columns = linear_sum_assignment(score.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(np.ascontiguousarray(columns, dtype=np.int64))


def decompose(matrix: Tensor, *, terms: int, smallest: float = 5e-4) -> tuple[Tensor, Tensor]:
    """Coefficients (k,) and permutations (k, n), k <= terms, whose weighted sum is close to `matrix` (n, n).

    Greedy Birkhoff-von Neumann decomposition: find the permutation with the largest sum of entries in what remains of
    the matrix, subtract it times its smallest entry, repeat. Remaining entries below `smallest` are set to zero. The
    terms with the largest coefficients are returned, largest first; they need not be the first ones that were found.
    """
    entries = matrix.cpu()
    remaining = torch.where(entries < smallest, 0.0, entries.double())
    rows = torch.arange(len(remaining))
    largest: list[tuple[float, Tensor]] = []
    while len(largest) < terms or _coefficient_bound(remaining) > largest[-1][0]:  # a later term may be larger
        # a zero entry costs more than any other entries gain, so the permutation selects none if it can be avoided
        columns = assign(torch.where(remaining > 0, remaining, -float(len(remaining))))
        coefficient = remaining[rows, columns].min()
        if coefficient <= 0:
            break
        largest = sorted([*largest, (coefficient.item(), columns)], key=lambda term: -term[0])[:terms]
        remaining[rows, columns] -= coefficient
        remaining[remaining < smallest] = 0
    if not largest:
        return torch.ones(1, dtype=torch.float64), assign(matrix)[None]
    coefficients, permutations = zip(*largest, strict=True)
    return torch.tensor(coefficients, dtype=torch.float64), torch.stack(permutations)


def _coefficient_bound(matrix: Tensor) -> float:
    """An upper bound on the coefficient of any permutation, the smallest entry that it selects in the matrix (n, n)."""
    return min(matrix.amax(0).min().item(), matrix.amax(1).min().item())
