"""Streamed second moments of two sets of units, safe against cancellation."""

import torch
from torch import Tensor

FAR = 3.0  # deviations between a unit's mean and zero, from which raw products would lose digits


class Moments:
    """Means, variances and cross-covariance of two sets of units over any number of samples, in constant memory.

    Batches are summed up in their own precision, and added up in float64. Where a unit of the first batch lies far from
    zero, that batch's means are taken off all samples first. So the sums that cancel in the end are at most
    1 + 2 FAR^2 / p times what is left of them, where the first batch is a share p of all samples, however these go on.
    """

    def __init__(self, units: int):
        self.units = units
        self.count = 0
        self.origins: tuple[Tensor | None, ...]  # (n,) of either set; None: zero
        self.sums: Tensor  # (2, n) of deviations from the origins
        self.squares: Tensor  # (2, n)
        self.products_of_deviations: Tensor  # (n, n)

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take in one batch of samples (m, n) of either set."""
        if not self.count:
            self.origins = tuple(_origin(side) for side in (first, second))
            empty = first.new_zeros(4 + self.units, self.units, dtype=torch.float64)
            self.sums, self.squares, self.products_of_deviations = empty.split([2, 2, self.units])
        a, b = (
            side if origin is None else side - origin
            for side, origin in zip((first, second), self.origins, strict=True)
        )
        self.count += len(a)
        self.sums += torch.stack([a.sum(0), b.sum(0)])
        self.squares += torch.stack([a.square().sum(0), b.square().sum(0)])
        self.products_of_deviations += a.T @ b

    def means(self) -> Tensor:
        """(2, n) float64."""
        if not self.count:
            raise ValueError("no samples were added")
        origins = torch.stack([torch.zeros_like(self.sums[0]) if o is None else o.double() for o in self.origins])
        return origins + self.sums / self.count

    def correlation(self, centred: bool = True) -> Tensor:
        """(n, n) float64 in [-1, 1]: Pearson, or the cosine of the raw values. A unit that never varies gives 0."""
        means = self.means()
        squares, cross = self.squares - self.sums.square() / self.count, self._cross()
        # rounding leaves some noise where a unit is constant: such a unit correlates with nothing
        noise = 1e-12 * self.count * (means.square() + 1e-12)
        if not centred:
            squares = squares + self.count * means.square()
            cross = cross + self.count * torch.outer(means[0], means[1])
        norms = torch.where(squares > noise, squares, torch.inf).sqrt()
        return cross / norms[0][:, None] / norms[1][None, :]

    def products(self) -> Tensor:
        """(n, n) float64: the mean product of raw values."""
        means = self.means()
        return self._cross() / self.count + torch.outer(means[0], means[1])

    def _cross(self) -> Tensor:
        """(n, n): the sum of products of deviations from the means."""
        return self.products_of_deviations - torch.outer(self.sums[0], self.sums[1]) / self.count


def _origin(samples: Tensor) -> Tensor | None:
    """The units' means (n,), if any of them is far from zero."""
    means = samples.mean(0)
    deviations = (samples - means).square().mean(0).sqrt()
    return means if bool((means.abs() > FAR * deviations).any()) else None
