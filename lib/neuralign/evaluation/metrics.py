"""Metrics: functions from logits (n, classes) and labels (n,) to one number per image (n,)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """100 for a correct image, else 0, so that the mean is in percent."""
    return 100.0 * (logits.argmax(1) == labels)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"loss": loss, "accuracy": accuracy}
