"""Cross-entropy of a classifier with smoothed labels, and how sure the classifier is."""

from torch.nn import functional as F

from neuralign.common.quantities import LOSS, Quantity
from neuralign.config.options import FractionBelowOne
from neuralign.networks.model import logits
from neuralign.training.objective import Metric, Objective

# Read without running this file, so it may hold constants alone. The first one is the headline of the report.
METRICS = (
    Quantity("accuracy", "accuracy", unit="%", higher_is_better=True, decimals=2, possible=(0, 100)),
    Quantity("confidence", "confidence", unit="%", higher_is_better=True, decimals=1, possible=(0, 100)),
    Quantity(LOSS, "loss", unit="nats", function="smoothed cross-entropy"),
)


def smoothed(*, smoothing: FractionBelowOne = 0.1) -> Objective:
    """Mean cross-entropy of logits (n, classes) and labels (n,) that are mixed with the uniform distribution.

    Args:
        smoothing: Share of the uniform distribution.
    """

    def losses(outputs, labels):
        return F.cross_entropy(logits(outputs), labels, reduction="none", label_smoothing=smoothing)

    metrics = {  # each gives one number for each example, whose mean is reported
        LOSS: Metric(losses),
        "accuracy": Metric(lambda outputs, labels: logits(outputs).argmax(1) == labels, scale=100),
        "confidence": Metric(lambda outputs, labels: logits(outputs).softmax(1).amax(1), scale=100),
    }
    return Objective(lambda outputs, labels: losses(outputs, labels).mean(), metrics, unit="nats")
