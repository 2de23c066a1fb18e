"""A dataset as numpy arrays, which the plug-ins in `sources` return. Torch-free.

A plug-in is `name(cache, *, ...options) -> Dataset`; `cache` is the folder for downloaded archives. The rule
`fetch_data` checks the dataset and writes it to one safetensors file that can be memory-mapped; training reads only
that file. `reading` holds what the plug-ins share. Of data that are not labelled images a plug-in returns an
`ArrayDataset`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuralign.common.errors import UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file, what was found and what is allowed."""


@dataclass(frozen=True)
class Split:
    """Examples in order. Of images, the targets are labels in 0 .. number of classes - 1."""

    inputs: np.ndarray  # (n, ...); of images uint8 (n, channels, height, width)
    targets: np.ndarray  # (n, ...); of images int64 (n,)


@dataclass(frozen=True)
class Dataset:
    """Labelled images."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # name of each label


@dataclass(frozen=True)
class ArrayDataset(Dataset):
    """Arrays of any type: tokens and the tokens after them, rows of a table and the numbers to predict.

    Whole numbers as targets are classes, or tokens, and `classes` has their names. Targets in floating point have the
    shape (n, k), and `classes` has the k names of what is predicted. So its length is the number of a network's
    outputs.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)  # what the data are, kept in the file; as JSON
