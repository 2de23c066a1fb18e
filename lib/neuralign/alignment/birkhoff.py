"""Doubly stochastic matrices: projection onto the Birkhoff polytope, and the way back to permutations.

Every function takes a batch of square matrices (..., n, n) unless it says otherwise.
"""

import numpy as np
import torch
from torch import Tensor


def balance(matrices: Tensor) -> Tensor:
    """The nearest matrices whose rows and columns sum to one (entries may be negative)."""
    n = matrices.shape[-1]
    rows = matrices.sum(-1, keepdim=True) - 1
    columns = matrices.sum(-2, keepdim=True) - 1
    return matrices - rows / n - columns / n + rows.sum(-2, keepdim=True) / n**2


def alternate(matrices: Tensor, sweeps: int) -> Tensor:
    """Alternating projections, as the paper's code has them: feasible in the limit, but not the nearest point."""
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
    """The permutation (n,) that maximises the sum of score[i, permutation[i]], exactly; score is (n, n), finite."""
    from scipy.optimize import linear_sum_assignment  # here: its import takes a quarter of a second

    _, columns = linear_sum_assignment(score.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(np.ascontiguousarray(columns, dtype=np.int64))


def decompose(matrix: Tensor, *, terms: int, smallest: float = 5e-4) -> tuple[Tensor, Tensor]:
    """Coefficients (k,) and permutations (k, n), k <= terms, whose weighted sum is close to `matrix` (n, n).

    Greedy Birkhoff-von Neumann: the heaviest permutation on what is left, as often as its smallest entry allows;
    entries below `smallest` count as nothing. Of all these terms the largest are given, in descending order: a term may
    be larger than one found before it.
    """
    held = matrix.cpu()
    left = torch.where(held < smallest, 0.0, held.double())
    rows = torch.arange(len(left))
    found: list[tuple[float, Tensor]] = []
    while len(found) < terms or _most(left) > found[-1][0]:  # no later term can be larger than what is possible now
        # entries that are used up cost more than any permutation can gain, so they are taken only if there is no other
        columns = assign(torch.where(left > 0, left, -float(len(left))))
        taken = left[rows, columns].min()
        if taken <= 0:
            break
        found = sorted([*found, (taken.item(), columns)], key=lambda term: -term[0])[:terms]
        left[rows, columns] -= taken
        left[left < smallest] = 0
    if not found:
        return torch.ones(1, dtype=torch.float64), assign(matrix)[None]
    coefficients, permutations = zip(*found, strict=True)
    return torch.tensor(coefficients, dtype=torch.float64), torch.stack(permutations)


def _most(matrix: Tensor) -> float:
    """What the smallest entry of any permutation on a matrix (n, n) is at most."""
    return min(matrix.amax(0).min().item(), matrix.amax(1).min().item())
