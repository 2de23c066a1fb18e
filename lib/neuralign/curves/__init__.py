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


def straight(basis: Basis, start: Tensor, end: Tensor) -> Curve:
    """The curve of this family whose bends lie evenly on the segment from `start` (d,) to `end` (d,)."""
    count = len(basis(torch.tensor(0.0, dtype=torch.float64)))
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
