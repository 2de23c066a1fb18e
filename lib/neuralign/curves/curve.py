"""Curves in weight space: functions from t in [0, 1] to parameters, as weighted sums of control points.

A plug-in of `families/` is a basis, `name(t, *, ...options) -> weights`: the weights (n,) of the n control points at t,
which sum to one. At t = 0 all weight is on the first control point, at t = 1 on the last; these two are the endpoints.
The others are the bends, which are trained. Their number is the option `bends`; a family without it has no bends.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralign.common.errors import UserError

Basis = Callable[[Tensor], Tensor]  # t, of shape () -> weights of the control points (n,)


@dataclass(frozen=True)
class Curve:
    """A curve in weight space, where a network is a flat vector (d,) of a `FlatLayout`."""

    basis: Basis
    ends: Tensor  # (2, d), the first and the last control point
    bends: Tensor  # (n - 2, d), the control points between them; (0, d) for a family without bends

    def __call__(self, t: float) -> Tensor:
        """The parameters (d,) at t in [0, 1]; gradients flow to the bends."""
        return self.at(self.basis(torch.tensor(t, dtype=torch.float64)).to(self.ends))

    def at(self, weights: Tensor) -> Tensor:
        """The parameters (d,) for these weights (n,) of the control points."""
        point = torch.addcmul(weights[0] * self.ends[0], weights[-1], self.ends[1])
        return torch.addmv(point, self.bends.T, weights[1:-1]) if len(self.bends) else point

    def with_bends(self, bends: Tensor) -> "Curve":
        """The curve with the first k numbers of each bend replaced by `bends` (n - 2, k), where k <= d."""
        remaining = self.bends[:, bends.shape[1] :]
        return Curve(self.basis, self.ends, torch.cat([bends, remaining], 1) if remaining.shape[1] else bends)

    def sample(self, bends: Tensor, weights: Tensor) -> Tensor:
        """The parameters (d,) of the curve with these `bends`, for these weights; the `sample` of `Training`."""
        return self.with_bends(bends).at(weights)


def straight_line(basis: Basis, start: Tensor, end: Tensor) -> Curve:
    """The straight line from `start` (d,) to `end` (d,) as a curve with this basis; its bends are evenly spaced.

    Raises UserError if the basis does not put all weight on the endpoints at t = 0 and t = 1.
    """
    first, last = (basis(torch.tensor(t, dtype=torch.float64)).tolist() for t in (0.0, 1.0))
    count = len(first)
    for t, weights, endpoint in ((0, first, 0), (1, last, count - 1)):
        if weights != [float(i == endpoint) for i in range(count)]:
            raise UserError(
                f"this family of curves does not meet its endpoints: at t = {t} the weights of the control points are "
                f"{weights}, but all weight must be on number {endpoint + 1}"
            )
    fractions = torch.linspace(0, 1, count, dtype=torch.float64)[1:-1].tolist()
    bends = [torch.lerp(start, end, fraction) for fraction in fractions]
    return Curve(basis, torch.stack([start, end]), torch.stack(bends) if bends else start.new_empty(0, len(start)))


def cumulative_lengths(curve: Curve, ts: list[float]) -> list[float]:
    """The length of the curve from its point at ts[0] to that at each of `ts` (increasing), along straight chords."""
    lengths, total, previous = [], 0.0, None
    for t in ts:
        point = curve(t).detach().double()
        total += 0.0 if previous is None else (point - previous).norm().item()
        previous = point
        lengths.append(total)
    return lengths
