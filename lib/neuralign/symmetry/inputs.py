"""The names of the tensors in a network's inputs."""

import inspect
from collections.abc import Iterator, Mapping
from inspect import Parameter
from itertools import count
from typing import Any

from torch import Tensor, nn

from neuralign.datasets.batches import Inputs


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
