"""Streamed second moments of two sets of units, safe against cancellation."""

import torch
from torch import Tensor


class Moments:
    """Means, variances and cross-covariance of two sets of units over any number of samples, in constant memory.

    Batches are centred on their own mean and merged in float64 (Chan, Golub & LeVeque 1983), so a large common offset
    or a long stream costs no accuracy.
    """

    def __init__(self, units: int):
        self.units = units
        self.count = 0
        self.means: Tensor | None = None  # (2, n)
        self.squares: Tensor  # (2, n) sums of squared deviations
        self.cross: Tensor  # (n, n) sum of products of deviations

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take in one batch of samples (m, n) of either set."""
        m = len(first)
        means = torch.stack([first.mean(0), second.mean(0)])
        a, b = first - means[0], second - means[1]
        rest = torch.stack([a.mean(0), b.mean(0)]).double()  # of the mean, lost to rounding in float32
        squares = torch.stack([a.square().sum(0), b.square().sum(0)]).double()
        cross = (a.T @ b).double()
        means = means.double() + rest
        if self.means is None:
            self.count, self.means, self.squares, self.cross = m, means, squares, cross
            return
        shift, weight = means - self.means, self.count * m / (self.count + m)
        self.squares += squares + shift.square() * weight
        self.cross += cross + torch.outer(shift[0], shift[1]) * weight
        self.means += shift * (m / (self.count + m))
        self.count += m

    def correlation(self, centred: bool = True) -> Tensor:
        """(n, n) float64 in [-1, 1]: Pearson, or the cosine of the raw values. A unit that never varies gives 0."""
        if self.means is None:
            raise ValueError("no samples were added")
        squares, cross = self.squares, self.cross
        if not centred:
            squares = squares + self.count * self.means.square()
            cross = cross + self.count * torch.outer(self.means[0], self.means[1])
        # float32 batches leave rounding noise where a unit is constant: such a unit correlates with nothing
        noise = 1e-12 * self.count * (self.means.square() + 1e-12)
        norms = torch.where(squares > noise, squares, torch.inf).sqrt()
        return cross / norms[0][:, None] / norms[1][None, :]
