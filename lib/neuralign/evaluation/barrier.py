"""The height of the barrier between the ends of a path, where it is highest, and how certain that is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from neuralign.common.seeding import stream
from neuralign.datasets.batches import Examples
from neuralign.networks.model import Model, State
from neuralign.training.objective import Metric

POINTS = 25  # of the first, even grid
PRECISION = 1e-3  # of the t of an extremum
SAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Barrier:
    """The largest rise of a path above the line between the values of its ends."""

    height: float
    t: float  # where it is
    interval: tuple[float, float]  # of 95 %, by bootstrap over examples


def find_maximum(function: Callable[[float], float], points: int = POINTS) -> tuple[float, float]:
    """(t, value) of the maximum of a function on [0, 1], up to PRECISION in t.

    It is evaluated at `points` even places; Brent's method then looks between the neighbours of the best of them. The
    function is called once for each t. A value that is not a number counts as the largest, so that it is not lost.
    """
    values: dict[float, float] = {}

    def minus_value(t: float) -> float:
        if t not in values:
            values[t] = function(t)
        return -values[t]

    def rank(t: float) -> tuple[bool, float]:
        return isnan(values[t]), values[t]

    grid = [i / (points - 1) for i in range(points)]
    for t in grid:
        minus_value(t)
    best = max(range(points), key=lambda i: rank(grid[i]))
    if not isnan(values[grid[best]]):
        bounds = (grid[max(best - 1, 0)], grid[min(best + 1, points - 1)])
        options = {"xatol": PRECISION}
        with np.errstate(invalid="ignore"):  # of infinite values it takes differences, and then goes without them
            minimize_scalar(lambda t: minus_value(float(t)), bounds=bounds, method="bounded", options=options)
    t = max(values, key=rank)
    return t, values[t]


def barrier(losses: Callable[[float], Tensor], *, points: int = POINTS, seed: int = 0) -> Barrier:
    """The barrier of a path, max over t of L(t) - (1 - t) L(0) - t L(1), and its interval.

    Args:
        losses: t -> the losses (n,) of n examples, the same in each call, at this point of the path.
        points: of the first grid of t.
        seed: of the bootstrap, which draws examples again and takes the maximum over the same t anew.
    """
    start, end = losses(0.0).double(), losses(1.0).double()
    rises: list[Tensor] = []  # (n,) at each t

    def height_at(t: float) -> float:
        middle = start if t == 0 else end if t == 1 else losses(t).double()
        rises.append((middle - (1 - t) * start - t * end).cpu())
        return rises[-1].mean().item()

    t, height = find_maximum(height_at, points)
    return Barrier(height, t, interval_of_largest_mean(torch.stack(rises), seed))


def interval_of_mean(values: Tensor, seed: int = 0) -> tuple[float, float]:
    """The interval of 95 % of the mean of values (n,), by bootstrap."""
    return interval_of_largest_mean(values[None], seed)


def interval_of_largest_mean(values: Tensor, seed: int = 0) -> tuple[float, float]:
    """The interval of 95 % of the largest of the means of values (k, n) over n, by bootstrap over n."""
    draws, values, n = stream(seed, "bootstrap"), values.double().cpu(), values.shape[1]
    largest = []
    for _ in range(SAMPLES):
        counts = torch.bincount(torch.randint(n, (n,), generator=draws), minlength=n)
        largest.append((values @ counts.double() / n).amax())
    low, high = torch.quantile(torch.stack(largest), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def values_of(model: Model, state: State, examples: Examples, metric: Metric, *, batch_size: int = 512) -> Tensor:
    """The metric of every example, (n,) in float64 and in its scale, in evaluation mode."""
    return metric.scale * values_of_all(model, state, examples, {"": metric}, batch_size=batch_size)[""]


@torch.no_grad()
def values_of_all(
    model: Model, state: State, examples: Examples, metrics: Mapping[str, Metric], *, batch_size: int = 512
) -> dict[str, Tensor]:
    """{name: the metric of every example, (n,) in float64, not scaled} in evaluation mode, by one pass."""
    model.network.eval()
    state = {name: t.detach().clone() for name, t in state.items()}
    values: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for inputs, targets in examples.batches(batch_size):
        outputs = model(state, inputs)
        for name, metric in metrics.items():
            values[name].append(metric.values(outputs, targets).double())
    return {name: torch.cat(parts) for name, parts in values.items()}
