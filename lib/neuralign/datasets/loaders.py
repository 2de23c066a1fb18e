"""Batches that somebody else's code yields, such as a `DataLoader` or a list, as examples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.datasets.batches import (
    Batch,
    Examples,
    Transform,
    count_examples,
    first_examples,
    move,
    select,
    tensors_of,
)


@dataclass
class Position:
    """Where a loader is in its pass."""

    number: int = 0  # of the batch that was read last, from 1


class Loader(Examples):
    """The batches of an iterable that can be read again and again, in the order and of the sizes that it yields them.

    A batch is `(inputs, targets)`, or inputs alone. Raises UserError, which names the batch by its number from 1, if
    the iterable raises an error, if inputs are not finite or do not agree in their number of examples, or if a pass
    yields other numbers of examples than the first one.
    """

    def __init__(self, batches: Iterable[Any], device: torch.device, position: "Position | None" = None):
        if isinstance(batches, Tensor):
            batches = [batches]
        if isinstance(batches, Iterator):
            raise UserError(
                f"batches: found a {type(batches).__name__}, which can be read only once; something that can be "
                "iterated again is needed, such as a list or a DataLoader"
            )
        if isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
            raise UserError(
                f"batches: found a {type(batches).__name__}; an iterable of batches is needed, each inputs or a pair "
                "(inputs, targets), such as a list or a DataLoader"
            )
        self.source, self.place, self.position = batches, device, position or Position()

    @property
    def device(self) -> torch.device:
        return self.place

    @cached_property
    def sizes(self) -> list[int]:
        """The number of examples of each batch; read in a pass of its own if there was none before."""
        return [count_examples(inputs) for inputs, _ in self._read(None)]

    def __len__(self) -> int:
        return sum(self.sizes)

    def batch_sizes(self, size: int) -> list[int]:
        return self.sizes

    def subset(self, index: Tensor | slice) -> NoReturn:
        raise UserError(
            "batches: a loader is read in its own order; to choose or shuffle examples, let it yield them like that"
        )

    def first(self, count: int | None) -> "Loader":
        """The batches until they have `count` examples, the last one cut; all of them for None."""
        return self if count is None else Loader(_First(self.source, count), self.place, self.position)

    def to(self, device: torch.device) -> "Loader":
        return Loader(self.source, device, self.position)

    def take(self, index: Tensor | slice, transform: Transform, draws: torch.Generator) -> NoReturn:
        self.subset(index)

    def batches(self, size: int) -> Iterator[Batch]:
        """The batches, those with more than `size` examples in parts of that size."""
        for inputs, targets in self._read(self.__dict__.get("sizes")):
            for start in range(0, count_examples(inputs), size):
                part = slice(start, start + size)
                yield select(inputs, part), select(targets, part)

    def varied(self, size: int, transform: Transform, draws: Any) -> Iterator[Batch]:
        """As `batches`: the loader does the variation."""
        yield from self.batches(size)

    def shuffled(
        self, size: int, transform: Transform, order: torch.Generator, draws: torch.Generator
    ) -> Iterator[Batch]:
        """The batches as the loader yields them: it does the shuffling and variation."""
        yield from self._read(self.__dict__.get("sizes"))

    def epoch(self, size: int, transform: Transform, order: Any, draws: Any, first: int = 0) -> Iterator[Batch]:
        """The batches as the loader yields them, from number `first` on."""
        for i, batch in enumerate(self._read(self.sizes)):
            if i >= first:
                yield batch

    def _read(self, sizes: list[int] | None) -> Iterator[Batch]:
        """One pass over the batches, on the device. `sizes`: of the first pass, with which this one has to agree."""
        number = 0
        try:
            batches = iter(self.source)
        except Exception as error:  # of the user's code
            raise UserError(f"batches: the loader raises {type(error).__name__}: {error}") from error
        while True:
            number += 1
            self.position.number = number
            try:
                batch = next(batches)
            except StopIteration:
                break
            except Exception as error:  # of the user's code
                raise UserError(
                    f"batches: batch {number}: the loader raises {type(error).__name__}: {error}"
                ) from error
            inputs, targets = _split(batch, number)
            try:
                count = count_examples(inputs)
            except UserError as error:
                raise UserError(f"batches: batch {number}: {error}") from None
            if sizes is not None and (number > len(sizes) or count != sizes[number - 1]):
                before = sizes[number - 1] if number <= len(sizes) else "no"
                raise UserError(
                    f"batches: batch {number} has {count} examples, where the first pass had {before}; every pass "
                    "has to yield as many"
                )
            for tensor in tensors_of(inputs):
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise UserError(f"batches: batch {number}: inputs have numbers that are not finite")
            yield move(inputs, self.place), move(targets, self.place)
        if number == 1:
            raise UserError("batches: found none; at least one is needed")
        if sizes is not None and number - 1 < len(sizes):
            raise UserError(f"batches: a pass ended after {number - 1} batches, where the first one had {len(sizes)}")


class _First:
    """The batches of an iterable until they have so many examples, the last one cut."""

    def __init__(self, batches: Iterable[Any], count: int):
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Batch]:
        return first_examples((_split(batch, number) for number, batch in enumerate(self.batches, 1)), self.count)


def _split(batch: Any, number: int) -> Batch:
    """(inputs, targets) of a batch; the targets are None where it has none."""
    if not isinstance(batch, tuple | list) or hasattr(batch, "_fields"):
        return batch, None
    if len(batch) > 2 or not batch:
        raise UserError(
            f"batches: batch {number} has {len(batch)} parts; inputs, or a pair (inputs, targets), are needed; several "
            "positional arguments of the network belong in a tuple: ((first, second), targets)"
        )
    return (batch[0], batch[1]) if len(batch) == 2 else (batch[0], None)
