"""Networks, and what the rest of the library needs to know of one: how to call it on pixels with given weights.

A plug-in of this folder is `name(classes, channels, *, ...options) -> nn.Module`; any other importable callable that
returns a module will do too (callables.py). In training mode a network may return a tuple (logits, auxiliary logits,
...); in evaluation mode it returns logits (n, classes).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.stateless import _reparametrize_module

from neuralign.config.plugins import Entry, plugin
from neuralign.config.references import is_object
from neuralign.networks.caches import evaluating, uncached
from neuralign.networks.foreign_networks import NetworkError, construct, summary

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
AUXILIARY_WEIGHT = 0.3  # weight of each auxiliary head in the loss (Szegedy et al. 2015, section 5)

State = Mapping[str, Tensor]  # parameters and buffers by name


@dataclass(frozen=True)
class Model:
    """A network that takes pixels in [0, 1]; the normalisation is its own business, so attacks need not know it."""

    network: nn.Module
    mean: Tensor  # (c, 1, 1)
    std: Tensor  # (c, 1, 1)

    def __call__(self, state: State, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Outputs of the network with the weights of `state`; in training mode its buffers are updated in place.

        To differentiate them, call the model within `holding`.
        """
        with self.holding(state) as network:
            return network(pixels)

    @contextmanager
    def holding(self, state: State) -> Iterator[Callable[[Tensor], Tensor | tuple[Tensor, ...]]]:
        """The model with the weights of `state`, a function of pixels that may be differentiated within the block.

        No call of a module in evaluation mode leaves anything in Python that the next could meet.
        """
        evaluated = evaluating(self.network)

        def network(pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
            with uncached(evaluated):
                return self.network(self.normalise(pixels))

        with uncached(evaluated), substituted(self.network, state) as held:  # layers may run in the backward pass, too
            yield network
        write_back(state, held)

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std

    def to(self, device: torch.device) -> "Model":
        return Model(self.network.to(device), self.mean.to(device), self.std.to(device))


@contextmanager
def substituted(network: nn.Module, state: State) -> Iterator[dict[str, Tensor]]:
    """A block in which `network` has the tensors of `state` for its own, in the forward and in the backward pass.

    `torch.func.functional_call` puts the network's own tensors back as soon as the forward pass is over; layers that
    run again in the backward pass (torch.utils.checkpoint) then run with those. Yields a copy of the mapping, which
    after the block holds what the network assigned anew, as in `self.running_mean = ...`.
    """
    held = dict(state)
    own = [(module, dict(module._parameters), dict(module._buffers)) for module in network.modules()]
    try:
        with _reparametrize_module(network, held, tie_weights=True):
            yield held
    finally:  # PyTorch leaves the state's tensors in a module that has two names
        for module, parameters, buffers in own:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def build(
    entry: Entry,
    *,
    classes: int | None,
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """The model of a config entry, freshly initialised from torch's global generator.

    `mean`, `std`: per-channel normalisation in [0, 1] pixels; None for none. `classes`: None leaves the number to the
    default of a callable that is no plug-in.
    """
    if is_object(entry["use"]):
        network = construct(entry["use"], entry.get("options", {}), classes, channels)
    else:
        network = plugin("networks", entry)(classes, channels)
    shift = torch.tensor([0.0] * channels if mean is None else list(mean)).view(-1, 1, 1)
    scale = torch.tensor([1.0] * channels if std is None else list(std)).view(-1, 1, 1)
    return Model(network, shift, scale)


def check_outputs(model: Model, pixels: Tensor, classes: int) -> None:
    """Refuse a model that does not turn pixels (n, c, h, w) in [0, 1] into logits (n, classes)."""
    found = outputs(model.network, model.normalise(pixels))
    head = logits(found) if isinstance(found, Tensor | tuple) else found
    if not isinstance(head, Tensor) or head.shape != (len(pixels), classes):
        shape = tuple(head.shape) if isinstance(head, Tensor) else type(head).__name__
        raise NetworkError(
            f"the network gives {shape} on an input of shape {tuple(pixels.shape)}; wanted are logits "
            f"({len(pixels)}, {classes}), one for each class"
        )


@torch.no_grad()
def outputs(network: nn.Module, example: Tensor) -> Any:
    """What the network makes of an input in evaluation mode; NetworkError where it cannot take it."""
    network.eval()
    try:
        with uncached(network.modules()):
            return network(example)
    except Exception as error:  # the code is anybody's, and so are its errors
        raise NetworkError(
            f"the network does not take an input of shape {tuple(example.shape)}: {summary(error)}"
        ) from error
    finally:
        network.train()


def write_back(state: State, held: State) -> None:
    """Copy what a call assigned anew to where the state has it.

    `held` is the mapping that the call worked on. Most networks update their buffers in place, but
    `self.running_mean = ...` is as good, and would be lost with the call.
    """
    with torch.no_grad():
        for name, tensor in held.items():
            if tensor is not state[name]:
                state[name].copy_(tensor)


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """A block after which every module is in the mode, training or evaluation, in which it was before."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """Parameters by name: those that train detached, the others (`requires_grad=False`) as they are."""
    return {name: p.detach() if p.requires_grad else p for name, p in network.named_parameters()}


def trainable(network: nn.Module) -> set[str]:
    """The names of the parameters that train; the others (`requires_grad=False`) stay as they are."""
    return {name for name, p in network.named_parameters() if p.requires_grad}


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the buffers by name."""
    return {name: b.detach().clone() for name, b in network.named_buffers()}


def first_names(network: nn.Module) -> dict[str, str]:
    """Of every name of a parameter or buffer the first name of the same tensor: tied ones have several."""
    first = {id(t): name for name, t in (*network.named_parameters(), *network.named_buffers())}
    every = (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    return {name: first[id(t)] for found in every for name, t in found}


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
