"""Curves in weight space as functions t -> parameters.

A plug-in of this folder is a basis: `name(t, *, ...options) -> (n,)` weights of the n control points, which sum to one;
at t = 0 all weight is on the first point and at t = 1 on the last. The first and the last control points are the
endpoints, the others are the bends that training moves. Their number is the option `bends`; a family without it has
nothing to train.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralign.common.errors import Refused

Basis = Callable[[Tensor], Tensor]  # t () -> (n,)


@dataclass(frozen=True)
class Curve:
    basis: Basis
    ends: Tensor  # (2, d)
    bends: Tensor  # (n - 2, d); empty for a segment

    def __call__(self, t: float) -> Tensor:
        """The parameters (d,) at t; gradients flow to the bends."""
        return self.at(self.basis(torch.tensor(t, dtype=torch.float64)).to(self.ends))

    def at(self, weights: Tensor) -> Tensor:
        """The parameters (d,) where the control points have these weights (n,)."""
        point = torch.addcmul(weights[0] * self.ends[0], weights[-1], self.ends[1])
        return torch.addmv(point, self.bends.T, weights[1:-1]) if len(self.bends) else point

    def bent(self, bends: Tensor) -> "Curve":
        """The curve with other `bends` (n - 2, k) in the first k numbers; the remaining numbers stay."""
        remaining = self.bends[:, bends.shape[1] :]
        return Curve(self.basis, self.ends, torch.cat([bends, remaining], 1) if remaining.shape[1] else bends)

    def sample(self, bends: Tensor, weights: Tensor) -> Tensor:
        """The parameters (d,) with other `bends`, at these weights of the control points; what a training samples."""
        return self.bent(bends).at(weights)


def straight(basis: Basis, start: Tensor, end: Tensor) -> Curve:
    """The curve of this family whose bends lie evenly on the segment from `start` (d,) to `end` (d,).

    Raises Refused if the family does not begin at the start and end at the end.
    """
    first, last = (basis(torch.tensor(t, dtype=torch.float64)).tolist() for t in (0.0, 1.0))
    count = len(first)
    for t, weights, place in ((0, first, 0), (1, last, count - 1)):
        if weights != [float(i == place) for i in range(count)]:
            raise Refused(
                f"this family of curves does not meet its ends: at t = {t} the control points weigh {weights}, all "
                f"weight should be on number {place + 1}"
            )
    rungs = torch.linspace(0, 1, count, dtype=torch.float64)[1:-1].tolist()
    bends = [torch.lerp(start, end, rung) for rung in rungs]
    return Curve(basis, torch.stack([start, end]), torch.stack(bends) if bends else start.new_empty(0, len(start)))


def distances(curve: Curve, ts: list[float]) -> list[float]:
    """Cumulative chord length along the curve at each t of the increasing `ts`, starting at 0."""
    total, before, out = 0.0, None, []
    for t in ts:
        here = curve(t).detach().double()
        total += 0.0 if before is None else (here - before).norm().item()
        before = here
        out.append(total)
    return out
