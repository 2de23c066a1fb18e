"""Cross-entropy of a language model."""

from math import exp
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from neuralign.networks.model import logits
from neuralign.training.objective import LOSS, Metric, Objective


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
