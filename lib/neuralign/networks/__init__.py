"""Networks, and what the rest of the library needs to know of one: how to call it on pixels with given weights.

A plug-in of this folder is `name(classes, channels, *, ...options) -> nn.Module`. In training mode a network may return
a tuple (logits, auxiliary logits, ...); in evaluation mode it returns logits (n, classes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from neuralign.plugins import Entry, plugin

AUXILIARY_WEIGHT = 0.3  # weight of each auxiliary head in the loss (Szegedy et al. 2015, section 5)

State = Mapping[str, Tensor]  # parameters and buffers by name


@dataclass(frozen=True)
class Model:
    """A network that takes pixels in [0, 1]; the normalisation is its own business, so attacks need not know it."""

    network: nn.Module
    mean: Tensor  # (c, 1, 1)
    std: Tensor  # (c, 1, 1)

    def __call__(self, state: State, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Outputs of the network with the weights of `state`; in training mode its buffers are updated in place."""
        return functional_call(self.network, dict(state), (self.normalise(pixels),))

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std

    def to(self, device: torch.device) -> "Model":
        return Model(self.network.to(device), self.mean.to(device), self.std.to(device))


def build(
    entry: Entry,
    *,
    classes: int,
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """The model of a config entry, freshly initialised from torch's global generator.

    `mean`, `std`: per-channel normalisation in [0, 1] pixels; None for none.
    """
    network = plugin("networks", entry)(classes, channels)
    shift = torch.tensor([0.0] * channels if mean is None else list(mean)).view(-1, 1, 1)
    scale = torch.tensor([1.0] * channels if std is None else list(std)).view(-1, 1, 1)
    return Model(network, shift, scale)


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """Trainable tensors by name, detached."""
    return {name: p.detach() for name, p in network.named_parameters()}


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the buffers by name."""
    return {name: b.detach().clone() for name, b in network.named_buffers()}


def logits(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The main head's logits."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def criterion(outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Mean cross-entropy, plus each auxiliary head's with its weight."""
    main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = F.cross_entropy(main, labels)
    for head in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(head, labels)
    return loss
