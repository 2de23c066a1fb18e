"""The Birkhoff polytope of doubly stochastic matrices: projection onto it, steps within it, and decomposition into
permutations."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.networks.parameters import FlatLayout

# Matrices of one size are padded to the size of larger ones if that takes at most so many numbers. Up to about there
# they take no longer in the batch of the larger ones than in one of their own, even on one core.
AFFORDABLE_PADDING = 32_768


class Projector:
    """Makes the square matrices in a vector doubly stochastic, in place.

    Matrices of similar sizes are projected together: with matrices as small as the groups of a network, a GPU takes
    longer to launch operations than to run them.

    Args:
        layout: where the matrices {name: (n, n)} lie in a vector (d,).
        example: a vector of this layout; others have its dtype and device.
    """

    def __init__(self, layout: FlatLayout, example: Tensor):
        positions = layout.views(torch.arange(len(example))).values()
        self.batches = [_Batch.of(members, example) for members in _similar(positions)]

    def alternate_(self, flat: Tensor, sweeps: int) -> None:
        """Make the matrices nearly doubly stochastic by `sweeps` alternating projections, as in the paper's code.

        They converge to doubly stochastic matrices, but not to the nearest ones; see `project_`.
        """
        for batch in self.batches:
            deviations = batch.load(flat)
            for _ in range(sweeps):
                deviations.clamp_(min=batch.least)
                batch.centre_(deviations)
            batch.store(deviations, flat)

    def project_(self, flat: Tensor, *, tolerance: float = 1e-6, sweeps: int = 1000) -> None:
        """Move to the nearest doubly stochastic matrices, by Dykstra's algorithm (Boyle & Dykstra 1986).

        Entries are at least -`tolerance` afterwards, unless that takes more sweeps. Synchronises with the device.
        """
        for batch in self.batches:
            deviations = batch.load(flat)
            correction = torch.zeros_like(deviations)
            for _ in range(sweeps):
                correction += deviations
                torch.clamp(correction, min=batch.least, out=deviations)
                correction -= deviations
                batch.centre_(deviations)
                if (deviations - batch.least).min() >= -tolerance:
                    break
            batch.store(deviations, flat)


@dataclass(frozen=True)
class _Batch:
    """Square matrices (n, n) in a vector, as a batch (count, side, side): each is padded to the size of the largest.

    The batch has their deviations from 1 / n. Those of a doubly stochastic matrix are at least -1 / n, and sum to zero
    in all rows and columns, so that padding with zeros changes nothing.
    """

    positions: Tensor  # (k,), of all entries in the vector
    places: Tensor  # (k,), of the same entries in the flattened batch
    uniform: Tensor  # (k,), 1 / n for each of them
    shares: Tensor  # (count, 1, side), 1 / n in the columns of a matrix and 0 in the padding
    least: Tensor  # (count, 1, 1), -1 / n

    @classmethod
    def of(cls, positions: Sequence[Tensor], example: Tensor) -> "_Batch":
        """The batch of matrices whose entries have these positions (n, n) in vectors like `example`."""
        side = max(map(len, positions))
        padded = torch.stack([F.pad(p, (0, side - len(p), 0, side - len(p)), value=-1) for p in positions])
        inside = padded >= 0
        shares = inside[:, :1] / inside[:, :1].sum(-1, keepdim=True, dtype=torch.float64)
        tensors = padded[inside], inside.flatten().nonzero()[:, 0]
        numbers = shares.expand_as(padded)[inside], shares, -shares[:, :, :1]
        return cls(*(t.to(example.device) for t in tensors), *(t.to(example) for t in numbers))

    def load(self, flat: Tensor) -> Tensor:
        """The batch (count, side, side) of the matrices in a vector."""
        count, _, side = self.shares.shape
        deviations = flat.index_select(0, self.positions) - self.uniform
        return flat.new_zeros(count * side**2).index_copy_(0, self.places, deviations).view(count, side, side)

    def store(self, batch: Tensor, flat: Tensor) -> None:
        """Write the matrices of a batch into a vector."""
        flat.index_copy_(0, self.positions, batch.view(-1).index_select(0, self.places) + self.uniform)

    def centre_(self, deviations: Tensor) -> None:
        """Make all rows and columns of the matrices sum to zero, by the smallest change."""
        deviations.addcmul_(deviations.sum(-1, keepdim=True), self.shares, value=-1)
        deviations.addcmul_(deviations.sum(-2, keepdim=True), self.shares.mT, value=-1)


def _similar(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    """The matrices in lists of similar sizes, the largest first in each."""
    by_size: dict[int, list[Tensor]] = {}
    for matrix in sorted(matrices, key=len, reverse=True):
        by_size.setdefault(len(matrix), []).append(matrix)
    lists: list[list[Tensor]] = []
    for n, members in by_size.items():
        if lists and len(members) * (len(lists[-1][0]) ** 2 - n**2) <= AFFORDABLE_PADDING:
            lists[-1] += members
        else:
            lists.append(members)
    return lists


def assign(score: Tensor) -> Tensor:
    """The permutation (n,) that maximises the sum over i of score[i, permutation[i]]; score is (n, n) and finite."""
    from scipy.optimize import linear_sum_assignment  # imported here because it takes a quarter of a second

    _, columns = linear_sum_assignment(score.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(np.ascontiguousarray(columns, dtype=np.int64))


def to_matrix(permutation: Tensor) -> Tensor:
    """The permutation matrix (n, n) in float64: entry [i, permutation[i]] is 1."""
    return torch.eye(len(permutation), dtype=torch.float64)[permutation]


def best_step(function: Callable[[float], float], degree: int) -> float:
    """The t in [0, 1] at which a polynomial of at most this degree is largest; 0 if it is constant."""
    ts = np.linspace(0, 1, degree + 1)
    return largest_at(np.linalg.solve(np.vander(ts), [function(t) for t in ts]))


def largest_at(coefficients: np.ndarray) -> float:
    """The t in [0, 1] at which a polynomial, highest power first, is largest; 0 if it is constant."""
    roots = np.roots(np.polyder(coefficients))
    inside = [float(r.real) for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < 1]
    return max([0.0, *inside, 1.0], key=lambda t: float(np.polyval(coefficients, t)))


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
