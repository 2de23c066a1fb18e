"""Pickled numpy arrays without the dangers of pickle."""

import io
import pickle
from typing import Any

import numpy as np

from neuralign.datasets.dataset import DataError

_reconstruct = np.empty(0).__reduce__()[0]  # wherever this version of numpy keeps it


def _bytes(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as Python 3 uses it to spell bytes in an old protocol; other codecs are not wanted."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed, only plain values and numpy arrays are")
        return ALLOWED[module, name]


def unpickled(blob: bytes, source: str) -> dict[str, Any]:
    """The pickled dictionary of plain values and numpy arrays; Python 2 strings become str. Calls nothing else."""
    try:
        value = _Unpickler(io.BytesIO(blob), encoding="latin1").load()
    except Exception as error:  # a malformed pickle may raise anything
        raise DataError(f"{source}: not a pickle of plain values and numpy arrays: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{source}: pickles a {type(value).__name__}, only a dict is allowed")
    return value
