"""A network as a function of a state and inputs, `model(state, inputs)`; the names of its tensors; its loss.

Networks come from the plug-ins of `architectures/`, `name(classes, channels, *, ...options) -> nn.Module`, or from any
other importable callable that returns a module (`foreign_networks.py`). In evaluation mode a network returns logits
(n, classes); in training mode it may return a tuple (logits, auxiliary logits, ...). A language model returns logits
(n, tokens, classes): its classes are the vocabulary.

`channels` is the size of the inputs' second dimension: of images (n, c, h, w) their channels, of windows of tokens
(n, t) the number of tokens, of the rows of a table (n, k) the number of columns.
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
from neuralign.config.references import is_foreign
from neuralign.datasets.batches import Inputs, call, count_examples, describe
from neuralign.networks.caches import modules_in_evaluation, preserved_attributes
from neuralign.networks.foreign_networks import NetworkError, construct, summary

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
AUXILIARY_WEIGHT = 0.3  # weight of each auxiliary head in the loss (Szegedy et al. 2015, section 5)

State = Mapping[str, Tensor]  # name -> parameter or buffer


@dataclass(frozen=True)
class Model:
    """A network together with the normalisation of its input.

    It takes pixels in [0, 1], the unit of the budget of an attack, so that an attack need not know the normalisation.
    A network of other inputs has none: these are any of those that `datasets/batches.py` describes.
    """

    network: nn.Module
    mean: Tensor | None  # (c, 1, 1), subtracted from pixels in [0, 1]; None: the network takes inputs as they are
    std: Tensor | None  # (c, 1, 1), by which the difference is divided

    @property
    def device(self) -> torch.device:
        """Where the network is: the device of its first tensor, or of the normalisation."""
        tensors = (t.device for t in (*self.network.parameters(), *self.network.buffers()))
        return next(tensors, torch.device("cpu")) if self.mean is None else self.mean.device

    def __call__(self, state: State, inputs: Inputs) -> Any:
        """The outputs for these inputs, computed with the parameters and buffers of `state`.

        In training mode the buffers in `state` are updated in place. To differentiate the outputs, call the network
        within `holding`: gradient checkpointing needs the weights in the backward pass too.
        """
        with self.holding(state) as network:
            return network(inputs)

    @contextmanager
    def holding(self, state: State) -> Iterator[Callable[[Inputs], Any]]:
        """A block in which the network has the tensors of `state`; yields the function inputs -> outputs.

        Outputs must be differentiated within the block. After it the buffers in `state` are updated, as by a call.

        Python attributes of modules in evaluation mode are restored after every call, so that no module uses a cached
        result of another call, and after the block, because gradient checkpointing runs layers in the backward pass.
        """
        evaluated = modules_in_evaluation(self.network)
        with preserved_attributes(evaluated) as restore, substituted(self.network, state) as current:

            def network(inputs: Inputs) -> Any:
                try:
                    return call(self.network, self.normalise(inputs))
                finally:
                    restore()

            yield network
        write_back(state, current)

    def normalise(self, inputs: Inputs) -> Inputs:
        """The network's inputs, for pixels in [0, 1] or for inputs as they are."""
        return inputs if self.mean is None else (inputs - self.mean) / self.std

    def to(self, device: torch.device) -> "Model":
        """A model with the same network, which is moved to `device` in place."""
        mean, std = (None if t is None else t.to(device) for t in (self.mean, self.std))
        return Model(self.network.to(device), mean, std)

    def double(self) -> "Model":
        """A model with the same network, which normalises in float64."""
        mean, std = (None if t is None else t.double() for t in (self.mean, self.std))
        return Model(self.network, mean, std)


@contextmanager
def substituted(network: nn.Module, state: State) -> Iterator[dict[str, Tensor]]:
    """A block in which `network` has the tensors of `state` in place of its own, in forward and backward passes.

    Yields a copy of the mapping `state`. A tensor that the network replaces by assignment (`self.running_mean = ...`)
    is in that copy after the block; see `write_back`.

    `torch.func.functional_call` would restore the network's own tensors when the forward pass ends, and layers that run
    again in the backward pass (torch.utils.checkpoint) would then use these.
    """
    current = dict(state)
    originals = [(module, dict(module._parameters), dict(module._buffers)) for module in network.modules()]
    try:
        with _reparametrize_module(network, current, tie_weights=True):
            yield current
    finally:  # PyTorch does not restore the tensors of a module that is registered under two names
        for module, parameters, buffers in originals:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def write_back(state: State, current: State) -> None:
    """Copy the tensors that a call replaced by assignment into those of `state`.

    Most networks update their buffers in place; after `self.running_mean = ...` the new values are only in `current`,
    the mapping that `substituted` yielded.
    """
    with torch.no_grad():
        for name, tensor in current.items():
            if tensor is not state[name]:
                state[name].copy_(tensor)


def build(
    entry: Entry,
    *,
    classes: int | None,
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """The model of a config entry, with new weights drawn from torch's global generator.

    Args:
        entry: `use`, a plug-in of `architectures/` or an importable callable, and its options.
        classes: the number of logits. None: the default of an importable callable; a plug-in needs a number.
        channels: of the images.
        mean, std: of pixels in [0, 1], one number for each channel; None: the network gets the pixels as they are.
    """
    if is_foreign(entry["use"]):
        network = construct(entry["use"], entry.get("options", {}), classes, channels)
    else:
        network = plugin("networks", entry)(classes, channels)
    shift = torch.tensor([0.0] * channels if mean is None else list(mean)).view(-1, 1, 1)
    scale = torch.tensor([1.0] * channels if std is None else list(std)).view(-1, 1, 1)
    return Model(network, shift, scale)


def check_outputs(model: Model, inputs: Inputs, classes: int) -> None:
    """Raise NetworkError unless the model returns (n, ..., classes) for these inputs; (n, classes) for images."""
    returned = evaluation_outputs(model.network, model.normalise(inputs))
    head = logits(returned) if isinstance(returned, Tensor | tuple) else returned
    count, takes_images = count_examples(inputs), model.mean is not None
    shape = tuple(head.shape) if isinstance(head, Tensor) else type(head).__name__
    fits = isinstance(head, Tensor) and head.dim() > 1 and (shape[0], shape[-1]) == (count, classes)
    if not fits or (takes_images and len(shape) > 2):
        raise NetworkError(
            f"the network returns {shape} for an input of shape {describe(inputs)}; logits ({count}, {classes}) are "
            "needed, one for each class"
        )


@torch.no_grad()
def evaluation_outputs(network: nn.Module, example: Inputs) -> Any:
    """What the network returns in evaluation mode for normalised inputs.

    The network is in training mode afterwards. Raises NetworkError if the network raises any error.
    """
    network.eval()
    try:
        with preserved_attributes(network.modules()):
            return call(network, example)
    except Exception as error:  # the network is the user's code and may raise anything
        raise NetworkError(
            f"the network does not take an input of shape {describe(example)}: {summary(error)}"
        ) from error
    finally:
        network.train()


@contextmanager
def preserved_modes(network: nn.Module) -> Iterator[None]:
    """A block after which every module is in the mode (training or evaluation) that it had before."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """{name: parameter}. Trainable ones are detached; frozen ones stay `nn.Parameter`s, as `FlatLayout` expects."""
    return {name: p.detach() if p.requires_grad else p for name, p in network.named_parameters()}


def trainable(network: nn.Module) -> set[str]:
    """The names of the parameters that require gradients; the others are frozen."""
    return {name for name, p in network.named_parameters() if p.requires_grad}


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """{name: copy of the buffer}."""
    return {name: b.detach().clone() for name, b in network.named_buffers()}


def canonical_names(network: nn.Module) -> dict[str, str]:
    """{name: name of the same tensor in a state} of all parameters and buffers.

    The two differ for tied tensors only: of their names, a state has the first.
    """
    in_state = {id(t): name for name, t in (*network.named_parameters(), *network.named_buffers())}
    with_duplicates = (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    return {name: in_state[id(t)] for tensors in with_duplicates for name, t in tensors}


def logits(outputs: Any) -> Tensor:
    """The main output: a tensor, the first of a tuple, or what a mapping or dataclass calls `logits`."""
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    main = outputs[0] if named is None and isinstance(outputs, tuple | list) and outputs else named
    if not isinstance(main, Tensor):
        raise NetworkError(
            f"the network returns a {type(outputs).__name__}; a tensor, a tuple that begins with one, or a tensor "
            "named `logits` is needed"
        )
    return main


def criterion(outputs: Any, labels: Tensor, auxiliary: float = AUXILIARY_WEIGHT) -> Tensor:
    """The training loss of a classifier: mean cross-entropy in nats, plus `auxiliary` times that of other heads."""
    loss = F.cross_entropy(logits(outputs), labels)
    for head in outputs[1:] if isinstance(outputs, tuple) else ():
        loss = loss + auxiliary * F.cross_entropy(head, labels)
    return loss
