"""Named tensors in safetensors files, with facts about them (any JSON object) in the file's metadata."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.files import atomic

UNSAVABLE = (torch.complex32, torch.complex128)  # dtypes that the format does not have


def load_tensors(path: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The named tensors of a safetensors file, on `device`. No code in the file is executed, whatever the file is."""
    with _refusing_other_files(path):
        return load_file(path, device=str(device))


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts that `save_tensors` wrote with the tensors; {} for a file that it did not write."""
    with _refusing_other_files(path), safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("facts", "{}")
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and facts about them to a safetensors file, atomically.

    The same content gives the same bytes: all facts are in one entry of the metadata, because safetensors writes
    several entries in random order.
    """
    demand_savable(path, tensors)
    metadata = {"facts": json.dumps(dict(facts), sort_keys=True)} if facts else None
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic(path) as temporary:
        save_file(contiguous, temporary, metadata)


def demand_savable(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError, which names `path`, for a tensor whose dtype the format does not have."""
    for name, tensor in tensors.items():
        if tensor.dtype in UNSAVABLE:
            raise UserError(f"{path}: {name} has dtype {tensor.dtype}, which safetensors files do not have")


@contextmanager
def _refusing_other_files(path: str | Path) -> Iterator[None]:
    """A block that reads a safetensors file. Raises ValueError if the file is damaged or of another kind."""
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; a safetensors file is needed")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged: {error}") from None
