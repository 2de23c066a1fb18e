"""Cross-entropy of a language model."""

from math import exp, inf
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from neuralign.common.quantities import LOSS, Quantity
from neuralign.networks.model import logits
from neuralign.training.objective import Metric, Objective

METRICS = (
    Quantity(
        "perplexity",
        "perplexity",
        decimals=2,
        possible=(1, inf),
        logarithmic=True,
        meaning="e to the power of the loss: the network is as unsure of the next token as of one drawn from so many "
        "tokens that are equally likely. Lower is better; 1 is certainty.",
    ),
    Quantity(
        "accuracy",
        "accuracy",
        unit="%",
        higher_is_better=True,
        decimals=2,
        possible=(0, 100),
        meaning="How many tokens are those that the network holds the most likely.",
    ),
    Quantity(
        LOSS,
        "loss",
        unit="nats per token",
        function="cross-entropy",
        meaning="Mean cross-entropy of the next token, with the natural logarithm; divided by 0.693, the logarithm of "
        "2, it is in bits per token. Where tokens are bytes, that is bits per byte.",
    ),
)


def next_token() -> Objective:
    """Mean cross-entropy in nats of logits (n, length, vocabulary) and the tokens (n, length) that follow; perplexity.

    An example is a sequence; its loss is the mean over its tokens. `accuracy` is the share of tokens that are the most
    likely one, in percent.
    """
    metrics = {LOSS: Metric(_losses), "accuracy": Metric(_correct, 100.0)}
    return Objective(
        _loss, metrics, {"perplexity": lambda means: exp(min(means[LOSS], 700.0))}, unit="nats", exploded=1e4
    )


def _loss(outputs: Any, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits(outputs).flatten(0, 1), tokens.flatten())


def _losses(outputs: Any, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits(outputs).transpose(1, 2), tokens, reduction="none").mean(1)


def _correct(outputs: Any, tokens: Tensor) -> Tensor:
    return (logits(outputs).argmax(2) == tokens).double().mean(1)
