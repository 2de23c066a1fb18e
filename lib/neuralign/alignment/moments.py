"""Streamed second moments of two sets of units, safe against cancellation, overflow and underflow."""

from math import inf

import torch
from torch import Tensor

from neuralign.common.errors import Refused

FAR = 3.0  # deviations between a unit's mean and zero, from which raw products would lose digits
SMALL = 1e-30  # of mean squares in float32: below it single squares fall out of its range, and far above it none does


class Moments:
    """Means, variances and cross-covariance of two sets of units over any number of samples, in constant memory.

    Batches are summed up in their own precision, but at least float32, and added up in float64. Where a unit of the
    first batch lies far from zero, that batch's means are taken off all samples first. So the sums that cancel in the
    end are at most 1 + 2 FAR^2 / p times what is left of them, where the first batch is a share p of all samples,
    however these go on. A batch whose squares are too large or too small for its own precision is summed up in float64.
    """

    def __init__(self, units: int):
        self.units = units
        self.count = 0
        self.resolution: float  # the relative distance of two neighbouring numbers of the samples' precision
        self.origins: tuple[Tensor | None, ...]  # (n,) of either set; None: zero
        self.sums: Tensor  # (2, n) of deviations from the origins
        self.squares: Tensor  # (2, n)
        self.products_of_deviations: Tensor  # (n, n)

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take in one batch of samples (m, n) of either set; refused where a number is not finite."""
        if not self.count:
            self.resolution = torch.finfo(first.dtype).eps
            self.origins = tuple(_origin(side) for side in (first, second))
            empty = first.new_zeros(4 + self.units, self.units, dtype=torch.float64)
            self.sums, self.squares, self.products_of_deviations = empty.split([2, 2, self.units])
        sums, squares, products = self._totals(first, second)
        if not _in_range(sums, squares, len(first)):
            sums, squares, products = self._totals(first.double(), second.double())
            _refuse_infinite(squares)
        self.count += len(first)
        self.sums += sums
        self.squares += squares
        self.products_of_deviations += products

    def _totals(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums (2, n), squares (2, n) and products (n, n) of a batch's deviations from the origins."""
        if torch.finfo(first.dtype).bits < 32:
            first, second = first.float(), second.float()
        a, b = (
            side if origin is None else side - origin
            for side, origin in zip((first, second), self.origins, strict=True)
        )
        sums = torch.stack([a.sum(0), b.sum(0)])
        return sums, torch.stack([a.square().sum(0), b.square().sum(0)]), a.T @ b

    def means(self) -> Tensor:
        """(2, n) float64."""
        if not self.count:
            raise ValueError("no samples were added")
        origins = torch.stack([torch.zeros_like(self.sums[0]) if o is None else o.double() for o in self.origins])
        return origins + self.sums / self.count

    def constant(self) -> Tensor:
        """(2, n) bool: the units that vary by no more than rounding, dead ones among them."""
        return self._deviations() <= self.count * (self.resolution * self.means()).square()

    def unresolved(self) -> Tensor:
        """(2, n) bool: the units of which rounding has left no variation though they are not zero throughout."""
        return self.constant() & (self.means() != 0)

    def correlation(self, centred: bool = True) -> Tensor:
        """(n, n) float64 in [-1, 1]: Pearson, or the cosine of the raw values. A unit that never varies gives 0."""
        means = self.means()
        squares, cross, none = self._deviations(), self._cross(), self.constant()
        if not centred:
            squares = squares + self.count * means.square()
            cross = cross + self.count * torch.outer(means[0], means[1])
            none = squares <= 0
        norms = torch.where(none, torch.inf, squares).sqrt()
        return cross / norms[0][:, None] / norms[1][None, :]

    def products(self) -> Tensor:
        """(n, n) float64: the mean product of raw values."""
        means = self.means()
        return self._cross() / self.count + torch.outer(means[0], means[1])

    def _deviations(self) -> Tensor:
        """(2, n): the sums of squares of deviations from the means."""
        return self.squares - self.sums.square() / self.count

    def _cross(self) -> Tensor:
        """(n, n): the sum of products of deviations from the means."""
        return self.products_of_deviations - torch.outer(self.sums[0], self.sums[1]) / self.count


def _origin(samples: Tensor) -> Tensor | None:
    """The units' means (n,), if any of them is far from zero."""
    means = samples.mean(0)
    deviations = (samples - means).square().mean(0).sqrt()
    if samples.dtype != torch.float64 and not torch.isfinite(deviations).all():
        precise = _origin(samples.double())
        return None if precise is None else precise.to(samples.dtype)
    return means if bool((means.abs() > FAR * deviations).any()) else None


def _in_range(sums: Tensor, squares: Tensor, samples: int) -> bool:
    """Whether no square was lost to the limits of float32; of a unit that is zero throughout there is none to lose."""
    low, high = (limit.item() for limit in torch.aminmax(squares))
    if samples * SMALL <= low and high < inf:  # nearly always, and quickly known
        return True
    small = (squares < samples * SMALL) & ((squares > 0) | (sums != 0))
    return bool((torch.isfinite(squares) & ~small).all())


def _refuse_infinite(squares: Tensor) -> None:
    """Raise where the sums of squares (2, n) are not finite."""
    for side, which in zip(squares, ("target", "source"), strict=True):
        if units := torch.nonzero(~torch.isfinite(side)).flatten().tolist():
            many = f"{len(units)} units: {', '.join(map(str, units[:5]))}{', ...' if len(units) > 5 else ''}"
            raise Refused(f"activations of the {which} or their squares are not finite, in {many}")
