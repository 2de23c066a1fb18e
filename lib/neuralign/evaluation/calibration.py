"""How well the probabilities of a classifier are calibrated, one temperature for its logits, and ensembles.

Networks between two others are often right, but too unsure; one temperature mends that and changes no prediction.
"""

from collections.abc import Sequence
from math import exp, log
from typing import Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.datasets.batches import Examples
from neuralign.networks.model import Model, State, logits

COLDEST, HOTTEST = 1e-3, 1e3  # the temperatures that are tried
BINS = 15


@torch.no_grad()
def predictions(model: Model, state: State, examples: Examples, *, batch_size: int = 512) -> tuple[Tensor, Tensor]:
    """(logits (n, classes) in float64, classes (n,)) of all examples, in evaluation mode.

    Of a network of sequences every token is an example. Raises UserError if the examples have no classes, or
    others than the network.
    """
    model.network.eval()
    state = {name: t.detach().clone() for name, t in state.items()}
    heads, labels = [], []
    for inputs, targets in examples.batches(batch_size):
        head = logits(model(state, inputs))
        if not isinstance(targets, Tensor) or targets.is_floating_point() or head.shape[:-1] != targets.shape:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise UserError(f"targets: found {found} for outputs {tuple(head.shape)}; one class for each is needed")
        heads.append(head.double().flatten(0, -2))
        labels.append(targets.flatten())
    classes, count = torch.cat(labels), heads[0].shape[1]
    if classes.min() < 0 or classes.max() >= count:
        raise UserError(f"targets: found {classes.min()} to {classes.max()}; classes from 0 to {count - 1} are needed")
    return torch.cat(heads), classes


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T with the lowest cross-entropy of logits / T, by Brent's method on log T.

    `logits` (n, classes) and `labels` (n,) of examples that it is not judged by. It is from COLDEST to HOTTEST; the
    former where all are right by far.
    """
    bounds = (log(COLDEST), log(HOTTEST))
    found = minimize_scalar(
        lambda x: F.cross_entropy(logits / exp(x), labels).item(),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-7},
    )
    return exp(found.x)


def calibration(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """{metric: value} of logits (n, classes) and labels (n,).

    Metrics: error, the share of wrong predictions in %; nll, the mean negative log-likelihood in nats; brier, the mean
    squared distance of the probabilities from the right class, from 0 to 2; ece, the expected calibration error in %:
    the mean distance of confidence and accuracy over 15 bins of equal width (Guo et al. 2017).
    """
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bins are open below and closed above
    gaps = torch.zeros(BINS, dtype=torch.float64, device=logits.device)
    gaps.index_add_(0, bins, confidence.double() - right)
    of_class = probabilities.gather(1, labels[:, None])[:, 0]
    return {
        "error": 100 * (1 - right.mean().item()),
        "nll": F.cross_entropy(logits, labels).item(),
        "brier": (1 - 2 * of_class + probabilities.square().sum(1)).mean().item(),
        "ece": 100 * gaps.abs().sum().item() / len(labels),
    }


def temperatures(logits: Tensor, labels: Tensor, seed: int) -> Tensor:
    """The temperature (n, 1) of every example, fitted on the half of the examples that it is not in.

    It is 1 if that half has no mistake: the fitted one would be close to zero, and the other half may have mistakes.
    `logits` (n, classes), `labels` (n,). The halves are drawn by `seed`.
    """
    halves = torch.randperm(len(labels), generator=stream(seed, "halves")).to(labels.device).tensor_split(2)
    wrong = logits.argmax(1) != labels
    fitted = torch.ones(len(labels), 1, dtype=logits.dtype, device=logits.device)
    for half, other in zip(halves, reversed(halves), strict=True):
        if wrong[other].any():
            fitted[half] = temperature(logits[other], labels[other])
    return fitted


def calibrated_metrics(logits: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float]:
    """{calibrated_nll, with `temperatures`; temperature, the geometric mean of those of both halves}."""
    fitted = temperatures(logits, labels, seed)
    return {
        "calibrated_nll": F.cross_entropy(logits / fitted, labels).item(),
        "temperature": fitted.log().mean().exp().item(),
    }


def ensemble(logits: Sequence[Tensor], mean: Literal["probabilities", "logits"] = "probabilities") -> Tensor:
    """The logits (n, classes) of the ensemble of several networks: of the mean of their probabilities or logits."""
    if mean == "logits":
        return torch.stack(list(logits)).mean(0)
    return torch.stack([head.log_softmax(1) for head in logits]).logsumexp(0) - log(len(logits))
