"""What a batch is: the inputs of a network for some examples, and the targets of a loss.

Inputs are a tensor, a tuple or list (the network's positional arguments), or a mapping (its keyword arguments, as
networks of Hugging Face take them). The first dimension of every tensor in them counts the examples; other values, such
as flags, are passed on as they are. Targets are anything that the loss understands.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import UserError

Inputs = Any  # Tensor | tuple | list | Mapping[str, Any]
Targets = Any


def call(network: Callable[..., Any], inputs: Inputs) -> Any:
    """What the network returns for these inputs."""
    if isinstance(inputs, Mapping):
        return network(**inputs)
    if isinstance(inputs, tuple | list):
        return network(*inputs)
    return network(inputs)


def tensors_of(values: Any) -> Iterator[Tensor]:
    """All tensors in inputs or targets: a tensor, or tensors within tuples, lists and mappings."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_of(value)
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors_of(value)


def map_tensors(function: Callable[[Tensor], Any], values: Any) -> Any:
    """Inputs or targets with `function` applied to every tensor in them; mappings become dicts."""
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, Mapping):
        return {name: map_tensors(function, value) for name, value in values.items()}
    if isinstance(values, tuple) and hasattr(values, "_fields"):  # a named tuple
        return type(values)(*(map_tensors(function, value) for value in values))
    if isinstance(values, tuple | list):
        return type(values)(map_tensors(function, value) for value in values)
    return values


def count_examples(inputs: Inputs) -> int:
    """The number of examples in inputs. Raises UserError if there is no tensor, or if tensors differ in it."""
    counts = {len(tensor) if tensor.dim() else 0 for tensor in tensors_of(inputs)}
    if len(counts) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs)) or "no tensor"
        raise UserError(f"inputs: found {shapes}; the first dimension of every tensor has to count the examples")
    return counts.pop()


def select(values: Any, index: Tensor | slice) -> Any:
    """The examples of `index` in inputs or targets."""
    return map_tensors(lambda tensor: tensor[index], values)


def move(values: Any, device: torch.device) -> Any:
    """Inputs or targets with their tensors on this device."""
    return map_tensors(lambda tensor: tensor.to(device), values)


def describe(inputs: Inputs) -> str:
    """The shapes of inputs in words: `(2, 3, 8, 8)`, or `input_ids (2, 7), attention_mask (2, 7)`."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {describe(value)}" for name, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(map(describe, inputs))
    return str(tuple(inputs.shape)) if isinstance(inputs, Tensor) else repr(inputs)
