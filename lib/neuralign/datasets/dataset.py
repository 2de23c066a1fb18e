"""Datasets as arrays. A plug-in of this folder returns a `Dataset`; nothing here needs torch.

A plug-in is `name(cache, *, ...options) -> Dataset`; `cache` is the folder in which downloaded archives are kept. The
rule `fetch_data` checks what it returns and writes it as one memory-mappable safetensors file; training reads only
that file. Everything the plug-ins share lies in the files without a function of their own name.
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
    classes: tuple[str, ...]
