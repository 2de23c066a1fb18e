"""Prepared arrays of any type, and mini-batches of them: what `images.py` is for images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.memory import fits
from neuralign.datasets.batches import (
    Batch,
    Examples,
    Inputs,
    Targets,
    Transform,
    count_examples,
    map_tensors,
    move,
    select,
    tensors_of,
)
from neuralign.datasets.on_disk import SPLITS, UNREADABLE, OnDisk, StoredTensor, names_in, open_dataset


@dataclass(frozen=True)
class Arrays(Examples):
    """Inputs and targets, the first dimension of whose tensors counts the examples.

    Whole numbers may be stored in fewer bits, as the tokens of a text are, in uint8; batches have them in int64, which
    embeddings and losses need.
    """

    inputs: Inputs
    targets: Targets

    def __len__(self) -> int:
        return count_examples(self.inputs)

    @property
    def device(self) -> torch.device:
        return next(tensors_of(self.inputs)).device

    def subset(self, index: Tensor | slice) -> "Arrays":
        """The examples with these indices, in their order."""
        return Arrays(select(self.inputs, index), select(self.targets, index))

    def to(self, device: torch.device) -> "Arrays":
        """The arrays on this device."""
        return Arrays(move(self.inputs, device), move(self.targets, device))

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches (inputs, targets) in file order. The last one may be smaller."""
        for part in self.parts(self.slices(size)):
            yield part.widened()

    def take(self, index: Tensor | slice, transform: Transform, draws: torch.Generator) -> Batch:
        """The examples of `index`. They are not varied: `transform` is for pixels, and nothing is drawn."""
        return self.subset(index).widened()

    def widened(self) -> Batch:
        """(inputs, targets) with whole numbers in int64."""
        return map_tensors(_widen, self.inputs), map_tensors(_widen, self.targets)


@dataclass(frozen=True)
class ArraysOnDisk(OnDisk, Arrays):
    """Arrays that stay on disk: `inputs` and `targets` are on the meta device."""


@dataclass(frozen=True)
class ArrayData:
    train: Arrays
    test: Arrays
    classes: tuple[str, ...]  # names of the classes or tokens, or of the numbers to predict: a network's outputs
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the dataset, such as the digest of its text

    @property
    def channels(self) -> int:
        """The size of the second dimension of the inputs: tokens in a window, or columns of a table."""
        tensor = next(tensors_of(self.train.inputs))
        return tensor.shape[1] if tensor.dim() > 1 else 1


def holds_arrays(path: str | Path) -> bool:
    """Whether the file of a dataset holds arrays, which `load` reads, rather than images. False for any other file."""
    return "train_inputs" in names_in(path)


def load(path: str | Path, device: torch.device) -> ArrayData:
    """The dataset of arrays that the rule `fetch_data` prepared, on `device`. Raises UserError if the file is none.

    Arrays that do not fit into the memory of the device (`common.memory.fits`) stay on disk; their numbers are checked
    when they are read.
    """
    try:
        facts, splits = open_dataset(path, ("inputs", "targets"))
        classes, data_facts = tuple(facts["classes"]), dict(facts["data"])
    except UNREADABLE as error:
        raise UserError(f"{path}: not a dataset of arrays that `fetch_data` wrote, or damaged: {error}") from None
    is_held = fits(sum(tensor.nbytes for split in splits for tensor in split), device)

    def arrays(split: str, inputs: StoredTensor, targets: StoredTensor) -> Arrays:
        prefix = f"{path}: {split}_"
        if not is_held:
            return _on_disk(inputs, targets, len(classes), prefix, device)
        held = Arrays(inputs.whole(), targets.whole())
        check(held, len(classes), prefix)
        return held.to(device)

    train, test = (arrays(name, inputs, targets) for name, (inputs, targets) in zip(SPLITS, splits, strict=True))
    return ArrayData(train, test, classes, data_facts)


def _on_disk(
    inputs: StoredTensor, targets: StoredTensor, outputs: int, prefix: str, device: torch.device
) -> ArraysOnDisk:
    """Arrays that are checked when they are read."""

    def read(rows: Tensor) -> Arrays:
        arrays = Arrays(inputs.read(rows), targets.read(rows))
        check(arrays, outputs, prefix)
        return arrays

    shapes = Arrays(inputs.without_numbers(), targets.without_numbers())
    _check_counts(shapes, prefix)
    rows = torch.arange(len(shapes))
    return ArraysOnDisk(shapes.inputs, shapes.targets, read=read, rows=rows, place=device)


def check(arrays: Arrays, outputs: int | None, prefix: str = "") -> None:
    """Raise UserError unless there are as many targets as inputs, all numbers are finite, and targets fit the outputs.

    Targets that are whole numbers must be in 0 .. outputs - 1. None allows any. `prefix` is put before `inputs` and
    `targets` in the message.
    """
    _check_counts(arrays, prefix)
    targets = list(tensors_of(arrays.targets))
    for part, tensors in (("inputs", tensors_of(arrays.inputs)), ("targets", targets)):
        for tensor in tensors:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{prefix}{part}: {int((~tensor.isfinite()).sum())} numbers are not finite")
    for tensor in targets:
        if outputs is not None and _is_whole(tensor):
            least, most = int(tensor.min()), int(tensor.max())  # a comparison in uint8 would take 256 for 0
            if least < 0 or most >= outputs:
                raise UserError(f"{prefix}targets are in {least} .. {most}; only 0 .. {outputs - 1} are allowed")


def _check_counts(arrays: Arrays, prefix: str) -> None:
    """Raise UserError if there are no inputs, or not as many targets."""
    count = len(arrays)
    if not count:
        raise UserError(f"{prefix}inputs are empty; at least one example is needed")
    for tensor in tensors_of(arrays.targets):
        if tensor.shape[:1] != (count,):
            raise UserError(
                f"{prefix}targets have shape {tuple(tensor.shape)}; one for each of {count} inputs is needed"
            )


def _widen(tensor: Tensor) -> Tensor:
    return tensor.long() if _is_whole(tensor) else tensor


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
