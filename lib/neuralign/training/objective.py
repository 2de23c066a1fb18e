"""What a training minimises, and what is measured of a network: functions of its outputs and the targets.

A plug-in of `objectives/` is `name(*, ...options) -> Objective`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from torch import Tensor

from neuralign.common.quantities import LOSS
from neuralign.datasets.batches import Targets


@dataclass(frozen=True)
class Metric:
    """A number for each example; its mean over all examples, times `scale`, is reported."""

    values: Callable[[Any, Targets], Tensor]  # (outputs, targets) -> (n,)
    scale: float = 1.0  # 100 for percent


@dataclass(frozen=True)
class Objective:
    """A loss and metrics."""

    loss: Callable[[Any, Targets], Tensor]  # (outputs, targets) -> (): the mean over a batch, which is minimised
    metrics: Mapping[str, Metric]  # LOSS, of the main output alone, and others; names with _ only serve `derived`
    # {name: function of the reported means}, for quantities that are no means themselves, such as perplexity
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(default_factory=dict)
    unit: str = ""  # of the loss
    exploded: float = inf  # a training whose mean loss in an epoch exceeds this has diverged

    @property
    def others(self) -> dict[str, Metric]:
        """The metrics but the loss."""
        return {name: metric for name, metric in self.metrics.items() if name != LOSS}

    @property
    def percent(self) -> set[str]:
        """The names of the metrics that are in percent."""
        return {name for name, metric in self.metrics.items() if metric.scale == 100}

    def report(self, totals: Mapping[str, float], examples: int) -> dict[str, float]:
        """{name: value} of metrics and derived quantities, from the sums of all metrics over so many examples."""
        means = {name: self.metrics[name].scale * total / examples for name, total in totals.items()}
        derived = {name: function(means) for name, function in self.derived.items()}
        return {name: mean for name, mean in means.items() if not name.startswith("_")} | derived
