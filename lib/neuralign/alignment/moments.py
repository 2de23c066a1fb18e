"""First and second moments of two sets of units, summed batch by batch without loss of digits, over- or underflow."""

from math import inf

import torch
from torch import Tensor

from neuralign.common.errors import UserError

# A unit whose mean is more than this many standard deviations from zero is shifted before products are summed: raw
# products would lose digits.
FAR = 3.0
SMALL = 1e-30  # a mean square below it may contain squares that float32 cannot represent


class Moments:
    """Means, variances and cross-covariance of two sets of n units over any number of samples, in constant memory.

    Each batch is summed in its own precision, at least float32, and the sums of batches are added in float64. If a unit
    of the first batch lies far from zero, that batch's means become the origins, which are subtracted from all samples.
    So the sums from which a variance is computed are at most 1 + 2 FAR^2 / p times as large as the variance, where p is
    the share of the first batch among all samples. If squares have left the range of float32 (`in_range`), all batches
    must be summed again with `precise`, in float64. On a GPU, nothing is read from the device after the first batch.
    """

    def __init__(self, units: int, *, precise: bool = False):
        self.units = units  # n
        self.precise = precise
        self.count = 0  # samples
        self.largest_batch = 0  # samples
        self.resolution: float  # machine epsilon of the samples' type
        self.origins: tuple[Tensor | None, ...]  # (n,) for either set; None: zero
        self.sums: Tensor  # (2, n), of deviations from the origins
        self.squares: Tensor  # (2, n), of deviations from the origins
        self.products_of_deviations: Tensor  # (n, n)
        # (2, n), of `squares` in any one batch; batches in which a unit is zero on every sample do not count
        self.smallest: Tensor

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add a batch of m samples, (m, n) of each set."""
        if not self.count:
            self.resolution = torch.finfo(first.dtype).eps
            self.origins = tuple(_origin(side) for side in (first, second))
            empty = first.new_zeros(4 + self.units, self.units, dtype=torch.float64)
            self.sums, self.squares, self.products_of_deviations = empty.split([2, 2, self.units])
            self.smallest = first.new_full((2, self.units), inf, dtype=torch.float64)
        sums, squares, products = self._totals(
            *((first.double(), second.double()) if self.precise else (first, second))
        )
        self.count += len(first)
        self.largest_batch = max(self.largest_batch, len(first))
        self.sums += sums
        self.squares += squares
        self.products_of_deviations += products
        self.smallest = torch.minimum(self.smallest, torch.where(squares.logical_or(sums), squares, inf))

    def in_range(self) -> Tensor:
        """() bool: whether all sums are finite, and no square has underflowed float32."""
        finite = torch.isfinite(self.squares).all()
        if self.precise or self.resolution < torch.finfo(torch.float32).eps:
            return finite
        return finite & (self.smallest >= SMALL * self.largest_batch).all()

    def demand_finite(self) -> None:
        """Raise UserError if a value or its square is not finite."""
        for squares, network in zip(self.squares, ("target", "source"), strict=True):
            if units := torch.nonzero(~torch.isfinite(squares)).flatten().tolist():
                numbers = f"{', '.join(map(str, units[:5]))}{', ...' if len(units) > 5 else ''}"
                raise UserError(
                    f"activations of the {network} or their squares are not finite, in {len(units)} units: {numbers}"
                )

    def _totals(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums (2, n), squares (2, n) and products (n, n) of a batch's deviations from the origins."""
        if torch.finfo(first.dtype).bits < 32:
            first, second = first.float(), second.float()
        a, b = (
            side if origin is None else side - origin
            for side, origin in zip((first, second), self.origins, strict=True)
        )
        sums = torch.stack([a.sum(0), b.sum(0)])
        return sums, torch.stack([a.square().sum(0), b.square().sum(0)]), a.T @ b

    def means(self) -> Tensor:
        """The means (2, n) in float64."""
        if not self.count:
            raise ValueError("no samples were added")
        origins = torch.stack([torch.zeros_like(self.sums[0]) if o is None else o.double() for o in self.origins])
        return origins + self.sums / self.count

    def constant(self) -> Tensor:
        """(2, n) bool: the units that vary by no more than rounding; dead units are among them."""
        return self._squared_deviations() <= self.count * (self.resolution * self.means()).square()

    def unresolved(self) -> Tensor:
        """(2, n) bool: the constant units that are not dead, whose variation may have been lost to rounding."""
        return self.constant() & (self.means() != 0)

    def correlation(self, centred: bool = True) -> Tensor:
        """(n, n) float64 in [-1, 1]: Pearson correlation, or cosine of the raw values; 0 for constant units."""
        means = self.means()
        squares, cross, undefined = self._squared_deviations(), self._cross_deviations(), self.constant()
        if not centred:
            squares = squares + self.count * means.square()
            cross = cross + self.count * torch.outer(means[0], means[1])
            undefined = squares <= 0
        norms = torch.where(undefined, torch.inf, squares).sqrt()
        return cross / norms[0][:, None] / norms[1][None, :]

    def products(self) -> Tensor:
        """(n, n) float64: the means of products of raw values."""
        means = self.means()
        return self.covariance() + torch.outer(means[0], means[1])

    def covariance(self) -> Tensor:
        """(n, n) float64: the means of products of deviations from the means."""
        return self._cross_deviations() / self.count

    def _squared_deviations(self) -> Tensor:
        """(2, n): the sums of squared deviations from the means."""
        return self.squares - self.sums.square() / self.count

    def _cross_deviations(self) -> Tensor:
        """(n, n): the sums of products of deviations from the means."""
        return self.products_of_deviations - torch.outer(self.sums[0], self.sums[1]) / self.count


def _origin(samples: Tensor) -> Tensor | None:
    """The means (n,) of samples (m, n), if any unit is far from zero, else None."""
    means = samples.mean(0)
    deviations = (samples - means).square().mean(0).sqrt()
    if samples.dtype != torch.float64 and not torch.isfinite(deviations).all():
        precise = _origin(samples.double())
        return None if precise is None else precise.to(samples.dtype)
    return means if bool((means.abs() > FAR * deviations).any()) else None
