"""Arrays that are kept in a file without a name where they do not fit into memory. Torch-free."""

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from neuralign.common.memory import fits

BLOCK = 2**24  # bytes that are copied or checked at a time


def empty(shape: Sequence[int], dtype: DTypeLike, folder: Path) -> np.ndarray:
    """An array of any content: in memory if it fits there (`common.memory.fits`), else in a file in `folder`.

    The file has no name and goes with the array, or with the process. Raises OSError, which names the folder, if its
    disk is full.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if fits(size):
        return np.empty(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # writing to a file with holes ends the process on a full disk
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; {size} bytes are needed", str(folder)) from error
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first dimension, of about BLOCK bytes each."""
    rows = max(1, BLOCK * len(array) // max(1, array.nbytes))
    return (slice(start, start + rows) for start in range(0, len(array), rows))


def select(array: np.ndarray, index: np.ndarray, folder: Path) -> np.ndarray:
    """`array[index]` for the numbers of rows (n,), as an array of `empty`."""
    selected = empty((len(index), *array.shape[1:]), array.dtype, folder)
    for block in blocks(selected):
        selected[block] = array[index[block]]
    return selected


def contiguous(array: np.ndarray, folder: Path) -> np.ndarray:
    """The array if its numbers lie in the order of C, else a copy of it, as an array of `empty`."""
    if array.flags.c_contiguous:
        return array
    copy = empty(array.shape, array.dtype, folder)
    for block in blocks(copy):
        copy[block] = array[block]
    return copy
