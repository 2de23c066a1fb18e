"""What a batch is, and what can be read in batches.

A batch is a pair: the inputs of a network for some examples, and the targets of a loss. Inputs are a tensor, a tuple or
list (the network's positional arguments), or a mapping (its keyword arguments, as networks of Hugging Face take them).
The first dimension of every tensor in them counts the examples; other values, such as flags, are passed on as they are.
Targets are anything that the loss understands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from math import ceil
from typing import Any, Self

import torch
from torch import Tensor

from neuralign.common.errors import UserError

Inputs = Any  # Tensor | tuple | list | Mapping[str, Any]
Targets = Any
Batch = tuple[Inputs, Targets]
Transform = Callable[[Tensor, torch.Generator], Tensor]  # inputs as they are stored -> inputs of the network, varied

# How many examples are varied in one call; they serve several steps. On a GPU this replaces some hundred small kernels
# per step; on a CPU it makes no difference.
AT_ONCE = 2048


class Examples(ABC):
    """Examples that are read in batches, in any order, into the memory of a device."""

    noun = "examples"  # what messages call them

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of all batches."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def subset(self, index: Tensor | slice) -> Self:
        """The examples with these indices, in their order."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same examples on another device."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """Batches in file order, as the network takes them. The last batch may be smaller."""

    @abstractmethod
    def take(self, index: Tensor | slice, transform: Transform, draws: torch.Generator) -> Batch:
        """The examples of `index`, varied by `transform`, which draws from `draws`."""

    def parts(self, indices: Iterable[Tensor | slice]) -> Iterator[Self]:
        """The examples of each of these indices, in the memory of the device."""
        return map(self.subset, indices)

    def random_order(self, generator: torch.Generator) -> Tensor:
        """The indices of all examples in random order, on the device where `subset` and `parts` want them."""
        return torch.randperm(len(self), generator=generator).to(self.device)

    def slices(self, size: int) -> Iterator[slice]:
        """Where the batches of `size` examples lie, in file order; the last one may be smaller."""
        return (slice(start, start + size) for start in range(0, len(self), size))

    def even_size(self, size: int) -> int:
        """A size of batches of about `size` with which the last batch is about as large as the others."""
        return ceil(len(self) / max(1, len(self) // size))

    def batch_sizes(self, size: int) -> list[int]:
        """The numbers of examples of the batches of an epoch with batches of `size`."""
        full, rest = divmod(len(self), size)
        return [size] * full + [rest] * (rest > 0)

    def first(self, count: int | None) -> Self:
        """The first `count` examples in file order; all of them for None."""
        return self if count is None else self.subset(slice(count))

    def sample(self, count: int | None, generator: torch.Generator) -> Self:
        """`count` random examples, in random order; all of them for None, or if there are no more."""
        return self.subset(self.random_order(generator)[:count])

    def varied(self, size: int, transform: Transform, draws: Callable[[int], torch.Generator]) -> Iterator[Batch]:
        """Varied batches in file order; `draws`: number of a batch -> the generator for it. See `batches`."""
        for number, part in enumerate(self.parts(self.slices(size))):
            yield part.take(slice(None), transform, draws(number))

    def shuffled(
        self, size: int, transform: Transform, order: torch.Generator, draws: torch.Generator
    ) -> Iterator[Batch]:
        """Varied batches in random order. The last batch may be smaller.

        `order` draws the order of the examples, `draws` their variation.
        """
        for part in self.parts(self.random_order(order).split(size)):
            yield part.take(slice(None), transform, draws)

    def epoch(
        self,
        size: int,
        transform: Transform,
        order: torch.Generator,
        draws: Callable[[int], torch.Generator],
        first: int = 0,
    ) -> Iterator[Batch]:
        """The batches of an epoch of training, in random order, from batch number `first` on.

        `draws`: number of a block of batches, which are varied at once -> the generator for it. So a training that is
        resumed draws the same numbers.
        """
        per_block = max(1, AT_ONCE // size)
        first_block, skipped = divmod(first, per_block)
        blocks = self.random_order(order).split(per_block * size)[first_block:]
        for number, part in enumerate(self.parts(blocks), first_block):
            inputs, targets = part.take(slice(None), transform, draws(number))
            for batch in islice(part.slices(size), skipped, None):
                yield select(inputs, batch), select(targets, batch)
            skipped = 0


def first_examples(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The batches until they have `count` examples, the last one cut."""
    for inputs, targets in batches:
        yield select(inputs, slice(count)), select(targets, slice(count))
        count -= count_examples(inputs)
        if count <= 0:
            return


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
