"""Cross-entropy of a classifier, and its accuracy."""

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from neuralign.common.quantities import LOSS, Quantity
from neuralign.config.options import NonNegative
from neuralign.networks.model import criterion, logits
from neuralign.training.objective import Metric, Objective

# A network that guesses has a loss of log(classes), below 10 nats. A bound relative to the first loss would not work,
# because a curve starts from well-trained networks, with a loss near 0.
EXPLODED = 1e4
METRICS = (
    Quantity("accuracy", "accuracy", unit="%", higher_is_better=True, decimals=2, possible=(0, 100)),
    Quantity(LOSS, "loss", unit="nats", function="cross-entropy"),
)


def cross_entropy(*, auxiliary: NonNegative = 0.3) -> Objective:
    """Mean cross-entropy in nats of logits (n, classes) and labels (n,); the accuracy in percent.

    Args:
        auxiliary: Weight in the training loss of each auxiliary head, as GoogLeNet has.
    """
    loss = partial(criterion, auxiliary=auxiliary)
    metrics = {LOSS: Metric(_losses), "accuracy": Metric(_correct, 100.0)}
    return Objective(loss, metrics, unit="nats", exploded=EXPLODED)


def _losses(outputs: Any, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits(outputs), labels, reduction="none")


def _correct(outputs: Any, labels: Tensor) -> Tensor:
    return logits(outputs).argmax(1) == labels


CLASSIFICATION = cross_entropy()  # the objective of the paper
