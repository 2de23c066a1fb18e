"""The layers with weights that a network calls, and the moments of their outputs, before any nonlinearity."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neuralign.datasets.batches import Examples, Inputs
from neuralign.merging.merge import BATCH_SIZE, Merge
from neuralign.networks.model import BATCH_NORMS, Model, State, canonical_names, preserved_modes
from neuralign.symmetry.export import groups_on
from neuralign.symmetry.permutations import PermutationSpec

# An output counts as constant if its deviation is at most this, or this share of its mean, which is rounding in float32
CONSTANT, CONSTANT_SHARE = 1e-8, 1e-6


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional layer that the network calls."""

    name: str  # of the module
    module: nn.Module
    weight: str  # names in a state
    bias: str | None
    axis: int  # of the weight, which has the outputs
    hidden: bool  # whether its outputs are hidden units; False for heads
    calls: int  # how often a forward pass calls it
    before_batch_norm: bool  # whether a batch norm takes its outputs as they are

    @property
    def output_dim(self) -> int:
        """The dimension of its outputs that counts the channels."""
        return 1 - self.module.weight.dim()  # type: ignore[operator,union-attr]


class Moments:
    """Means and standard deviations of channels over any number of samples, summed in float64."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, outputs: Tensor, dim: int) -> None:
        """Add the outputs of a batch, whose dimension `dim` counts the channels."""
        samples = outputs.detach().movedim(dim, 0).flatten(1).double()  # (channels, samples)
        self.count += samples.shape[1]
        self.sums = self.sums.to(samples) + samples.sum(1)
        self.squares = self.squares.to(samples) + samples.square().sum(1)

    @property
    def mean(self) -> Tensor:
        """(channels,)"""
        return self.sums / self.count

    @property
    def deviation(self) -> Tensor:
        """(channels,)"""
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()

    @property
    def constant(self) -> Tensor:
        """(channels,), bool: which channels are constant but for rounding."""
        return self.deviation <= (CONSTANT_SHARE * self.mean.abs()).clamp(min=CONSTANT)


def layers_of(model: Model, spec: PermutationSpec, state: State, inputs: Inputs) -> list[Layer]:
    """The layers that a forward pass calls, in the order of their first calls.

    Left out are layers whose weight is no tensor of a state, because it is computed from others, or is shared with
    another module.
    """
    names, network = canonical_names(model.network), model.network
    owners = Counter(id(p) for module in network.modules() for p in module._parameters.values() if p is not None)
    candidates: dict[nn.Module, str] = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
        and owners[id(module.weight)] == 1
        and not (isinstance(module, _ConvTransposeNd) and module.groups > 1)
    }
    calls: dict[nn.Module, int] = {}
    outputs: list[tuple[nn.Module, Tensor]] = []
    normalised = set[nn.Module]()

    def after_layer(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        outputs.append((module, output))

    def before_norm(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        normalised.update(module for module, output in outputs if arguments and output is arguments[0])

    hooks = [module.register_forward_hook(after_layer) for module in candidates]
    hooks += [m.register_forward_pre_hook(before_norm) for m in network.modules() if isinstance(m, BATCH_NORMS)]
    try:
        forward(model, state, inputs)
    finally:
        for hook in hooks:
            hook.remove()

    def describe(module: nn.Module, count: int) -> Layer:
        name, axis = candidates[module], int(isinstance(module, _ConvTransposeNd))
        weight, bias = (f"{name}.{local}" if name else local for local in ("weight", "bias"))
        axes = spec.axes.get(names[weight], ())
        hidden = bool(axes) and not set(spec.free).isdisjoint(groups_on(axes[axis]))
        bias_name = None if module.bias is None else names[bias]
        return Layer(name, module, names[weight], bias_name, axis, hidden, count, module in normalised)

    return [describe(module, count) for module, count in calls.items()]


@torch.no_grad()
def forward(model: Model, state: State, inputs: Inputs, *, batch_statistics: bool = False) -> Any:
    """The outputs in evaluation mode; with `batch_statistics`, batch norms use those of the batch.

    The state does not change.
    """
    with preserved_modes(model.network):
        model.network.eval()
        for module in model.network.modules():
            if batch_statistics and isinstance(module, BATCH_NORMS):
                module.training = True
        return model({name: tensor.detach().clone() for name, tensor in state.items()}, inputs)


@contextmanager
def observed(layers: Sequence[Layer], observe: Callable[[Layer, Tensor], Tensor | None]) -> Iterator[None]:
    """A block in which `observe` gets the outputs of every call of these layers, and may replace them."""

    def hook_of(layer: Layer) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        return lambda module, arguments, outputs: observe(layer, outputs)

    hooks = [layer.module.register_forward_hook(hook_of(layer)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outputs_of(
    model: Model, state: State, layers: Sequence[Layer], inputs: Inputs
) -> tuple[dict[str, list[Tensor]], Any]:
    """({name of a layer: its outputs in each call}, the outputs of the network)."""
    outputs: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}

    def keep(layer: Layer, output: Tensor) -> None:
        outputs[layer.name].append(output.clone())

    with observed(layers, keep):
        returned = forward(model, state, inputs)
    return outputs, returned


@dataclass(frozen=True)
class Goal:
    """The moments that the outputs of a merged layer should have: the weighted means of those of the ends."""

    mean: Tensor  # (channels,)
    deviation: Tensor  # (channels,)


def goals_and_mixtures(
    merge: Merge, layers: Sequence[Layer], examples: Examples
) -> tuple[dict[str, Goal], dict[str, Moments]]:
    """The goals of these layers, and the moments of the weighted sum of the ends' outputs; {name of a layer: ...}.

    Each batch is read once.
    """
    of_ends = [{layer.name: Moments() for layer in layers} for _ in merge.ends]
    of_mixture = {layer.name: Moments() for layer in layers}
    dims = {layer.name: layer.output_dim for layer in layers}
    for inputs, _ in examples.batches(examples.even_size(BATCH_SIZE)):
        mixture: dict[str, list[Tensor]] = {}
        for end, weight, moments in zip(merge.ends, merge.weights, of_ends, strict=True):
            outputs, _ = outputs_of(merge.model, end, layers, inputs)
            for name, calls in outputs.items():
                for call in calls:
                    moments[name].add(call, dims[name])
                weighted = [weight * call.double() for call in calls]
                before = mixture.get(name)
                mixture[name] = weighted if before is None else [a + b for a, b in zip(before, weighted, strict=True)]
        for name, calls in mixture.items():
            for call in calls:
                of_mixture[name].add(call, dims[name])

    def goal(name: str) -> Goal:
        pairs = [(weight, moments[name]) for weight, moments in zip(merge.weights, of_ends, strict=True)]
        return Goal(sum_of(w * m.mean for w, m in pairs), sum_of(w * m.deviation for w, m in pairs))

    return {layer.name: goal(layer.name) for layer in layers}, of_mixture


def sum_of(tensors: Iterator[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(tensors)).sum(0)


def correction(layer: Layer, moments: Moments, goal: Goal, match: str) -> tuple[Tensor, Tensor]:
    """(gain, shift) with which the outputs of a layer, of these moments, get those of the goal.

    With `match` "scale", and for a layer without bias, they are scaled only, so that their deviations are right.
    Constant outputs stay as they are.
    """
    constant = moments.constant
    gain = torch.where(constant, 1.0, goal.deviation / torch.where(constant, 1.0, moments.deviation))
    shift = torch.where(constant, 0.0, goal.mean - gain * moments.mean)
    return gain, torch.zeros_like(shift) if match == "scale" or layer.bias is None else shift


def corrected(state: State, layer: Layer, gain: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """The state in which the outputs z of a layer are gain * z + shift, (channels,) each."""
    weight = state[layer.weight]
    shape = [-1 if dim == layer.axis else 1 for dim in range(weight.dim())]
    changes = {layer.weight: (weight.double() * gain.view(shape)).to(weight.dtype)}
    if layer.bias is not None:
        bias = state[layer.bias]
        changes[layer.bias] = (bias.double() * gain + shift).to(bias.dtype)
    return {**state, **changes}


def repair_facts(layers: Sequence[Layer], moments: Mapping[str, Moments], match: str) -> dict[str, int]:
    """What repairs report: numbers of layers, of constant outputs that stay, and of outputs without a bias to shift."""
    return {
        "layers": len(layers),
        "dead": sum(int(moments[layer.name].constant.sum()) for layer in layers),
        "unshifted": sum(len(moments[x.name].mean) for x in layers if match == "both" and x.bias is None),
    }
