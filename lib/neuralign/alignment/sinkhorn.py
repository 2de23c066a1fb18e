"""Doubly stochastic matrices of any latent matrices, by Sinkhorn's algorithm, with their gradient."""

from typing import Any

import torch
from torch import Tensor

MOST = 200  # iterations until the marginals are within the tolerance, which the implicit gradient needs
CHECKED = 10  # iterations between two looks at the marginals, each of which waits for the device
# Added to the diagonal of the system that the implicit gradient solves. Sharp matrices fall apart into blocks that are
# connected by entries below the rounding of float64: then the system is singular, or its solution as large as 1e40.
# The gradient changes by about this share of the largest derivative of the loss by an entry.
RIDGE = 1e-12


def sinkhorn(latent: Tensor, *, iterations: int = 20, implicit: bool = True, tolerance: float = 1e-6) -> Tensor:
    """The doubly stochastic matrix (n, n) that Sinkhorn's algorithm finds from exp(latent); computed in float64.

    Rows and then columns are divided by their sums `iterations` times. No range of `latent` overflows.

    `implicit`: the gradient is that of the limit (Pena et al. 2023). It needs no memory for iterations, and is right
    where the algorithm has converged, so that iterations go on until all row sums are within `tolerance` of 1, or there
    were 200. Otherwise the gradient is that of the iterations themselves.
    """
    wide = latent.double()
    result = _Implicit.apply(wide, iterations, tolerance) if implicit else _iterate(wide, iterations).exp()
    return result.to(latent.dtype)


def _iterate(log_matrix: Tensor, iterations: int) -> Tensor:
    for _ in range(iterations):
        log_matrix = log_matrix - log_matrix.logsumexp(1, keepdim=True)
        log_matrix = log_matrix - log_matrix.logsumexp(0, keepdim=True)
    return log_matrix


def _scale(log_matrix: Tensor, iterations: int) -> Tensor:
    """What `_iterate` returns, by products with vectors, which take a fraction of the time of its exponentials.

    `log_matrix` (n, n) comes from an iteration: columns sum to 1, and rows to at least 1 / n^2. So the factors are far
    from the limits of float64 when they go into the matrix, after CHECKED iterations at most.
    """
    for first in range(0, iterations, CHECKED):
        matrix, columns = log_matrix.exp(), log_matrix.new_ones(len(log_matrix))
        for _ in range(min(iterations - first, CHECKED)):
            rows = 1 / (matrix @ columns)
            columns = 1 / (matrix.T @ rows)
        log_matrix = log_matrix + rows.log()[:, None] + columns.log()
    return log_matrix


class _Implicit(torch.autograd.Function):
    """The limit of Sinkhorn's algorithm with the gradient that its marginals determine.

    A change of the latent matrix Z changes log P by dZ minus what keeps rows and columns at 1: dP = P * (dZ - x 1^T -
    1 y^T). So the gradient of a loss with derivative C by P is P * (C - u 1^T - 1 v^T), where u and v solve

        diag(P 1) u + P v = (P * C) 1,    P^T u + diag(P^T 1) v = (P * C)^T 1.

    u is eliminated. Both are determined up to a constant in each block of P, which changes nothing: RIDGE chooses one.
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, iterations: int, tolerance: float) -> Tensor:
        log_matrix, done = _scale(_iterate(latent, 1), iterations - 1), iterations
        matrix = log_matrix.exp()
        while done < MOST and (matrix.sum(1) - 1).abs().max() > tolerance:
            log_matrix, done = _scale(log_matrix, CHECKED), done + CHECKED
            matrix = log_matrix.exp()
        ctx.save_for_backward(matrix)
        return matrix

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (matrix,), (gradient,) = ctx.saved_tensors, gradients
        weighted = matrix * gradient
        rows, columns = matrix.sum(1), matrix.sum(0)
        scaled = matrix / rows[:, None]
        system = torch.diag(columns) - matrix.T @ scaled
        right = weighted.sum(0) - scaled.T @ weighted.sum(1)
        system.diagonal().add_(RIDGE)
        v = torch.linalg.solve(system, right)
        u = (weighted.sum(1) - matrix @ v) / rows
        return matrix * (gradient - u[:, None] - v), None, None
