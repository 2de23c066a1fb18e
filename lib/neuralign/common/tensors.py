"""Named tensors on disk: safetensors files, and facts about them as JSON in their metadata."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuralign.common.errors import Refused
from neuralign.common.files import atomic

UNSAVABLE = (torch.complex32, torch.complex128)  # types that safetensors lacks


def load_tensors(path: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The named tensors of a safetensors file. Nothing in the file is executed, whatever it is."""
    with _refusing_other_files(path):
        return load_file(path, device=str(device))


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts that `save_tensors` wrote beside the tensors; {} for a file that something else wrote."""
    with _refusing_other_files(path), safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("facts", "{}")
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write named tensors, and facts about them, to a safetensors file; on an error nothing is left there.

    The same content gives the same bytes. The facts are one metadata entry, because safetensors writes several in
    random order.
    """
    demand_savable(path, tensors)
    metadata = {"facts": json.dumps(dict(facts), sort_keys=True)} if facts else None
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, metadata)


def demand_savable(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of a type that safetensors files do not have; `path` is where they would be written."""
    for name, tensor in tensors.items():
        if tensor.dtype in UNSAVABLE:
            raise Refused(f"{path}: {name} is {tensor.dtype}, which a file of safetensors cannot hold")


@contextmanager
def _refusing_other_files(path: str | Path) -> Iterator[None]:
    """A block that reads a safetensors file; ValueError where it is none, or a damaged one."""
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder, a safetensors file is needed")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged: {error}") from None
