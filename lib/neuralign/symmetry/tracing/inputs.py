"""The names and axes of the tensors in a network's inputs."""

import inspect
from collections.abc import Iterator, Mapping
from inspect import Parameter
from itertools import count
from typing import Any

from torch import Tensor, nn

from neuralign.datasets.batches import Inputs
from neuralign.symmetry.tracing.axes import STEP, Axis, ordered_axis
from neuralign.symmetry.tracing.call import Axes

FIRST = -1.0  # `first_seen` of the axis of the first input's channels: before that of any parameter


def named_inputs(network: nn.Module, inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) for every tensor in the inputs, in the order of `tensors_of`.

    The name is that of the parameter of `forward` which the tensor is passed to. A tensor within a tuple or a mapping
    that is passed to one parameter also has its position or key: "past[0]", "features[age]".
    """
    if isinstance(inputs, Mapping):
        yield from _named_tensors(inputs.items())
    else:
        arguments = inputs if isinstance(inputs, tuple | list) else [inputs]
        yield from _named_tensors(zip(_positional_parameters(network), arguments, strict=False))


def input_axes(network: nn.Module, inputs: Inputs) -> Iterator[tuple[Tensor, Axes]]:
    """(tensor, its axes) for every tensor in the inputs.

    The channels of a floating-point tensor (n, c, ...) are a fixed group. The order along all other axes is data.
    """
    for number, (name, tensor) in enumerate(named_inputs(network, inputs)):
        axes = list(map(ordered_axis, tensor.shape))
        if tensor.dim() > 1 and tensor.is_floating_point():
            axes[1] = Axis(tensor.shape[1], f"<{name}>", FIRST + number * STEP, "it is the network's input")
        yield tensor, tuple(axes)


def _positional_parameters(network: nn.Module) -> Iterator[str]:
    """The names of the positional parameters of `forward`, in order; those within `*args` are "args", "args[1]", ..."""
    parameters = inspect.signature(network.forward).parameters.values()
    yield from (p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD))
    others = next((p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL), "input")
    yield others
    yield from (f"{others}[{number}]" for number in count(1))


def _named_tensors(arguments: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) for every tensor in these (name, value)."""
    for name, value in arguments:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _named_tensors((f"{name}[{key}]", part) for key, part in value.items())
        elif isinstance(value, tuple | list):
            yield from _named_tensors((f"{name}[{i}]", part) for i, part in enumerate(value))
