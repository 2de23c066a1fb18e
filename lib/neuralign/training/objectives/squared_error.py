"""Squared error of a regression."""

from collections.abc import Mapping
from math import inf, nan
from typing import Any

from torch import Tensor

from neuralign.common.quantities import LOSS, Quantity
from neuralign.networks.model import logits
from neuralign.training.objective import Metric, Objective

METRICS = (
    Quantity(
        "r2",
        "R²",
        unit="%",
        higher_is_better=True,
        decimals=2,
        possible=(-inf, 100),
        meaning="The share of the variance of the test targets that the network explains: 100 % less the squared error "
        "divided by that variance. To always predict the mean of the test targets has 0 %; what is worse is negative.",
    ),
    Quantity(
        LOSS,
        "loss",
        function="squared error",
        meaning="Mean squared difference of outputs and targets, in the squared unit of the dataset's targets.",
    ),
)


def squared_error() -> Objective:
    """Mean squared difference of outputs and targets (n, ...), over all numbers; `r2`, the explained variance in %.

    r2 is 100 (1 - loss / variance); the variance is that of the targets on which it is measured.
    """
    metrics = {
        LOSS: Metric(lambda outputs, targets: _mean(_errors(outputs, targets).square())),
        "_target": Metric(lambda _, targets: _mean(targets)),
        "_target_square": Metric(lambda _, targets: _mean(targets.double().square())),
    }
    return Objective(_loss, metrics, {"r2": _explained_percent})


def _mean(numbers: Tensor) -> Tensor:
    """The mean of each example's numbers, (n, ...) -> (n,) float64."""
    return numbers.double().reshape(len(numbers), -1).mean(1)


def _errors(outputs: Any, targets: Tensor) -> Tensor:
    """The differences; a network may return (n, 1) for targets (n,)."""
    return logits(outputs).reshape(targets.shape) - targets


def _loss(outputs: Any, targets: Tensor) -> Tensor:
    return _errors(outputs, targets).square().mean()


def _explained_percent(means: Mapping[str, float]) -> float:
    variance = means["_target_square"] - means["_target"] ** 2
    return 100 * (1 - means[LOSS] / variance) if variance > 0 else nan
