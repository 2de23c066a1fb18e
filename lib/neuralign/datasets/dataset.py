"""A dataset as numpy arrays, which the plug-ins in `sources` return. Torch-free.

A plug-in is `name(cache, *, ...options) -> Dataset`; `cache` is the folder for downloaded archives. The rule
`fetch_data` checks the dataset and writes it to one safetensors file that can be memory-mapped; training reads only
that file. `reading` holds what the plug-ins share.
"""

from dataclasses import dataclass

import numpy as np

from neuralign.common.errors import UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file, what was found and what is allowed."""


@dataclass(frozen=True)
class Split:
    images: np.ndarray  # uint8 (n, channels, height, width)
    labels: np.ndarray  # int64 (n,), in 0 .. len(classes) - 1


@dataclass(frozen=True)
class Dataset:
    train: Split
    test: Split
    classes: tuple[str, ...]  # name of each label
