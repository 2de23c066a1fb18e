"""Examples that stay in the file of a prepared dataset, because they do not fit into memory.

A thread of its own reads the next batches while the last one is computed with. Batches are the same, to the bit, as
those of the same examples in memory. The file is read, not mapped: so memory does not seem to grow with the file, and a
file that is cut short while it is in use is an error of one line, where an access to mapped memory ends the process.
"""

import json
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.datasets.batches import Batch, Examples, Transform, map_tensors

T = TypeVar("T")
R = TypeVar("R")

SPLITS = ("train", "test")
AHEAD = 2  # parts that are read before they are asked for
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
# the errors of a file that is no dataset
UNREADABLE = (KeyError, ValueError, TypeError, OSError, RecursionError)


class OpenFile:
    """A file that is open for reading, and stays the same file if another one takes its name."""

    def __init__(self, path: str | Path):
        self.path, self.number = path, os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.number).st_size
        weakref.finalize(self, os.close, self.number)

    def announce(self, start: int, length: int) -> None:
        """Let the system fetch these bytes from the disk; it fetches many places at once four times as fast."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self.number, start, length, os.POSIX_FADV_WILLNEED)

    def read(self, target: memoryview, start: int) -> None:
        """Fill `target` with the bytes from `start` on. Raises UserError if the file ends before."""
        while target:
            count = os.preadv(self.number, [target], start)
            if not count:
                raise UserError(
                    f"{self.path}: ends after {os.fstat(self.number).st_size} bytes, but had {self.size} when it was "
                    "opened; it must not change while a job reads it"
                )
            target, start = target[count:], start + count


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, the first dimension of which counts the examples."""

    name: str
    file: OpenFile
    start: int  # of its bytes in the file
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def without_numbers(self) -> Tensor:
        """A tensor of this shape and dtype on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def whole(self) -> Tensor:
        """All numbers, in memory that is that of the cached file where safetensors maps files."""
        with safe_open(self.file.path, "pt") as file:
            return file.get_tensor(self.name)

    def read_all(self) -> Tensor:
        """All numbers, in memory of their own."""
        numbers = torch.empty(self.shape, dtype=self.dtype)
        self.file.read(_bytes_of(numbers), self.start)
        return numbers

    def read(self, rows: Tensor) -> Tensor:
        """The examples of these rows (n,), in their order. What lies together in the file is read at once."""
        examples = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        width = prod(self.shape[1:]) * self.dtype.itemsize  # bytes of an example
        target = _bytes_of(examples)
        order = np.argsort(rows.numpy(), kind="stable")  # so that the file is read from its beginning to its end
        sources = rows.numpy()[order]
        is_first = (np.diff(sources, prepend=-2) != 1) | (np.diff(order, prepend=-2) != 1)
        firsts = np.flatnonzero(is_first)
        starts, places = self.start + sources[firsts] * width, order[firsts] * width
        lengths = np.diff(firsts, append=len(rows)) * width
        runs = [*zip(starts.tolist(), places.tolist(), lengths.tolist(), strict=True)]
        for start, _, length in runs:
            self.file.announce(start, length)
        for start, place, length in runs:
            self.file.read(target[place : place + length], start)
        return examples


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.flatten().view(torch.uint8).numpy().data


def open_dataset(path: str | Path, parts: Sequence[str]) -> tuple[dict[str, Any], list[tuple[StoredTensor, ...]]]:
    """The facts of a prepared dataset, and for each of SPLITS the stored tensors of these parts, such as "images".

    Only the header of the file is read. Raises one of UNREADABLE if the file is none with these, or is cut short.
    """
    file = OpenFile(path)
    header, begin = _read_header(file)
    tensors = [[_stored_tensor(file, header, begin, f"{split}_{part}") for part in parts] for split in SPLITS]
    return json.loads(header["__metadata__"]["facts"]), [tuple(of_split) for of_split in tensors]


def names_in(path: str | Path) -> set[str]:
    """The names of the tensors in a safetensors file; none for any other file."""
    try:
        return set(_read_header(OpenFile(path))[0])
    except UNREADABLE:
        return set()


def _read_header(file: OpenFile) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the data begin. Raises ValueError if the file is none."""
    length = bytearray(min(8, file.size))
    file.read(memoryview(length), 0)
    begin = 8 + int.from_bytes(length, "little")  # its first 8 bytes are the length of the header
    if begin > file.size:
        raise ValueError(f"its header would end at byte {begin}, the file ends at byte {file.size}")
    text = bytearray(begin - 8)
    file.read(memoryview(text), 8)
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    return header, begin


def _stored_tensor(file: OpenFile, header: dict[str, Any], begin: int, name: str) -> StoredTensor:
    """The tensor of this name. Raises ValueError if the file has none, or not all of its bytes."""
    if name not in header:
        raise ValueError(f"it has no tensor {name}")
    start, end = (begin + offset for offset in header[name]["data_offsets"])
    tensor = StoredTensor(name, file, start, torch.Size(header[name]["shape"]), DTYPES[header[name]["dtype"]])
    if not begin <= start <= end <= file.size:
        raise ValueError(f"{name} ends at byte {end}, the file at byte {file.size}")
    if end - start != tensor.nbytes:
        raise ValueError(f"{name} has {end - start} bytes; its shape {tuple(tensor.shape)} needs {tensor.nbytes}")
    return tensor


@dataclass(frozen=True, kw_only=True)
class OnDisk(Examples):
    """What examples on disk have in common; a subclass has a second base, the class of such examples in memory.

    The tensors in the fields of that are on the meta device, which tells their shapes, or on the CPU.
    """

    read: Callable[[Tensor], Examples]  # rows of the file (n,) -> these examples on the CPU
    rows: Tensor  # (n,) int64: where the examples are in the file, 8 bytes for each
    place: torch.device  # of all batches

    @property
    def device(self) -> torch.device:
        return self.place

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, index: Tensor | slice) -> Self:
        """The examples with these indices, in their order; they stay on disk."""
        index = index.cpu() if isinstance(index, Tensor) else index
        return _map_fields(lambda tensor: tensor[index], self)

    def to(self, device: torch.device) -> Self:
        return replace(self, place=device)

    def random_order(self, generator: torch.Generator) -> Tensor:
        """Random indices on the CPU, where the rows are."""
        return torch.randperm(len(self), generator=generator)

    def take(self, index: Tensor | slice, transform: Transform, draws: torch.Generator) -> Batch:
        (part,) = self.parts([index])
        return part.take(slice(None), transform, draws)

    def parts(self, indices: Iterable[Tensor | slice]) -> Iterator[Any]:
        """The examples of each of these indices, read ahead, in the memory of the device.

        For a GPU they are in pinned memory, from which they are copied while the host goes on.
        """
        for part in read_ahead(self._read, (index if isinstance(index, slice) else index.cpu() for index in indices)):
            yield _map_fields(partial(Tensor.to, device=self.place, non_blocking=True), part)

    def _read(self, index: Tensor | slice) -> Examples:
        part = self.read(self.rows[index])
        return _map_fields(lambda tensor: tensor.pin_memory(), part) if self.place.type == "cuda" else part


def _map_fields(function: Callable[[Tensor], Tensor], examples: Any) -> Any:
    """A dataclass of examples with `function` applied to all tensors in its fields."""
    values = {field.name: map_tensors(function, getattr(examples, field.name)) for field in fields(examples)}
    return replace(examples, **values)


def read_ahead(function: Callable[[T], R], arguments: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
    """`function` of each argument, in their order, computed by a thread of its own before the result is asked for.

    The thread is up to `ahead` results in front. An error of `function` is raised where its result is due. The thread
    ends with the iteration, also if that is closed before its end.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        try:
            for argument in arguments:
                pending.append(pool.submit(function, argument))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
