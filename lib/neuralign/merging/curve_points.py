"""Single networks from a curve: its best point, any other, its exact mean, and several points for an ensemble."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isnan

import numpy as np
import torch

from neuralign.common.errors import UserError
from neuralign.curves.curve import Basis, Curve
from neuralign.curves.endpoints import Endpoints
from neuralign.datasets.batches import Examples
from neuralign.evaluation.barrier import POINTS, find_maximum, values_of
from neuralign.evaluation.calibration import ensemble, predictions
from neuralign.merging.merge import with_fresh_statistics
from neuralign.networks.model import State
from neuralign.training.objective import LOSS, Objective

ORDER, PIECES = 8, 4  # of the quadrature between two control points; exact for polynomials of degree 15


@dataclass(frozen=True)
class BestPoint:
    """The point of a curve with the lowest loss on validation examples."""

    t: float  # 0 or 1 if an end is best
    loss: float
    state: State


BEST, MEAN = "best", "mean"  # names of points; the others are t


def parse_point(text: str, argument: str) -> str | float:
    """The point of a curve that a text names: BEST, MEAN, or t from 0 to 1.

    Raises UserError, which names the argument, for other texts.
    """
    if text in (BEST, MEAN):
        return text
    try:
        t = float(text.removeprefix("t="))
    except ValueError:
        t = -1.0
    if not 0 <= t <= 1:  # which is no number that is not one either
        raise UserError(f"{argument}: found {text!r}; best, mean, or t from 0 to 1 is needed, such as t=0.5")
    return t


def named_point(
    point: str | float, curve: Curve, ends: Endpoints, training: Examples, validation: Examples, objective: Objective
) -> tuple[float | None, State]:
    """(its t, or None for the mean; its state) of the point that `parse_point` returns. The rest as in `best_point`."""
    if point == MEAN:
        return None, mean_of_curve(curve, ends, training)
    if point == BEST:
        best = best_point(curve, ends, training, validation, objective)
        return best.t, best.state
    t = float(point)
    return t, state_at(curve, ends, t, training)


def state_at(curve: Curve, ends: Endpoints, t: float, examples: Examples) -> State:
    """The network at t of a curve, with running statistics re-estimated on `examples`, also at the ends."""
    return with_fresh_statistics(ends.model, ends.state_on(curve, t), examples)


def best_point(
    curve: Curve, ends: Endpoints, training: Examples, validation: Examples, objective: Objective, points: int = POINTS
) -> BestPoint:
    """The point with the lowest validation loss: of an even grid, refined as in `find_maximum`.

    Raises UserError if no loss is a number.

    Args:
        curve: from the first of the `ends` to the second.
        ends: both networks.
        training: examples on which running statistics are re-estimated, at the ends too.
        validation: examples by whose loss points are compared; no test examples.
        objective: which has the loss.
        points: of the grid.
    """

    def minus_loss(t: float) -> float:
        state = state_at(curve, ends, t, training)
        loss = values_of(ends.model, state, validation, objective.metrics[LOSS]).mean().item()
        return -inf if isnan(loss) else -loss

    t, value = find_maximum(minus_loss, points)
    if value == -inf:
        raise UserError(f"no network on the curve has a finite validation loss, at none of {points} points")
    return BestPoint(t, -value, state_at(curve, ends, t, training))


def mean_weights(basis: Basis) -> torch.Tensor:
    """The weights (n,) of the control points in the mean of a curve over t in [0, 1]: the integrals of the basis.

    They are exact for families that are polynomials of degree 15 at most between t = i / (n - 1), as all shipped ones.
    """
    count = len(basis(torch.tensor(0.0, dtype=torch.float64)))
    pieces = PIECES * (count - 1)
    nodes, shares = np.polynomial.legendre.leggauss(ORDER)  # on [-1, 1]
    ts = [(piece + (node + 1) / 2) / pieces for piece in range(pieces) for node in nodes]
    values = torch.stack([basis(torch.tensor(t, dtype=torch.float64)) for t in ts])
    return torch.tensor(np.tile(shares / (2 * pieces), pieces)) @ values


def mean_of_curve(curve: Curve, ends: Endpoints, examples: Examples) -> State:
    """The mean of the networks on a curve, as of infinitely many even points; statistics re-estimated on `examples`."""
    vector = curve.at(mean_weights(curve.basis).to(curve.ends))
    return with_fresh_statistics(ends.model, ends.state_at(vector, (0.5, 0.5)), examples)


def curve_ensemble(
    curve: Curve, ends: Endpoints, training: Examples, examples: Examples, points: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits (n, classes) of the mean of probabilities of networks on the curve, classes (n,)), on `examples`.

    The networks are at even places, both ends included; one is in the middle. `training` as in `best_point`.
    """
    ts: Sequence[float] = [i / (points - 1) for i in range(points)] if points > 1 else [0.5]
    states: Callable[[float], State] = lambda t: state_at(curve, ends, t, training)  # noqa: E731
    results = [predictions(ends.model, states(t), examples) for t in ts]
    return ensemble([logits for logits, _ in results]), results[0][1]
