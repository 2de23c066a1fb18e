"""The tensors in checkpoint files of others, read without executing anything in them.

A file is a mapping of tensors, or mappings and lists of those (`state_dict`, `model`, `optimizer`, ...); a checkpoint
of several shards is one mapping.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from neuralign.common.errors import first_line, some
from neuralign.common.file_kinds import text
from neuralign.common.shards import CheckpointError, is_shard, shards

Where = tuple[str, ...]  # the names of the mappings above, outer to inner


def tensors(path: str | Path) -> dict[Where, dict[str, Tensor]]:
    """{where: {name: tensor}}: every mapping of a checkpoint that has tensors in it.

    `path`: a safetensors file, a file of torch.save, an index of shards, or a folder with one of these. Raises
    CheckpointError for whatever else it is.
    """
    found = shards(path)
    if found.holders:
        return {(): _joined(found.files[0], found.holders)}
    (file,) = found.files
    return _flat(file)


def hint(path: str | Path) -> str:
    """What the name of a file says about why tensors are missing in it."""
    return "; the file is one of several shards: name their index.json, or the folder" if is_shard(path) else ""


def _flat(file: Path) -> dict[Where, dict[str, Tensor]]:
    found = {where: held for where, held in _mappings(file, _load(file), (), ()) if held}
    if not found:
        raise CheckpointError(f"{file}: no named tensors in it; a state_dict is wanted")
    return found


def _joined(index: Path, holders: Mapping[str, str]) -> dict[str, Tensor]:
    """All tensors of an index; every shard must hold just those that the index says."""
    found: dict[str, Tensor] = {}
    for name in sorted(set(holders.values())):
        shard = index.parent / name
        levels = _flat(shard)
        if levels.keys() != {()}:
            inside = some([".".join(where) for where in levels if where])
            raise CheckpointError(f"{shard}: its tensors lie inside {inside}; a shard of {index.name} has them by name")
        held, wanted = levels[()], {n for n, holder in holders.items() if holder == name}
        if missing := sorted(wanted - held.keys()):
            raise CheckpointError(f"{shard}: tensors that {index.name} says it holds are missing: {some(missing)}")
        if twice := sorted(held.keys() & holders.keys() - wanted):
            other = holders[twice[0]]
            raise CheckpointError(f"{shard}: holds {some(twice)}, which by {index.name} is in {other}")
        if extra := sorted(held.keys() - wanted):
            raise CheckpointError(f"{shard}: holds tensors that {index.name} does not name: {some(extra)}")
        found |= held
    return {name: found[name] for name in holders}


def _load(file: Path) -> Any:
    try:
        return load_file(file)
    except SafetensorError as error:
        unlike_safetensors = first_line(str(error))
    try:
        if damaged := _unlike_its_checksum(file):
            raise CheckpointError(
                f"{file}: damaged: {some([damaged])} in it does not have the checksum it was saved with"
            )
        with warnings.catch_warnings(), file.open("rb") as opened:  # by its name torch would take it for another kind
            warnings.simplefilter("ignore")  # of how the file was written, about which its reader can do nothing
            return torch.load(opened, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file may raise anything
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = f"holds a Python object ({named[1]}), and to load that could run anything; save model.state_dict()"
        else:
            said = unlike_safetensors if file.suffix == ".safetensors" else _said(error)
            why = f"neither .safetensors nor a file of torch.save, or damaged ({text(file) or said})"
        raise CheckpointError(f"{file}: {why}") from error


def _unlike_its_checksum(file: Path) -> str | None:
    """The first member of an archive of torch.save that is not as it was written; torch itself does not look."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return archive.testzip()


def _said(error: Exception) -> str:
    """What torch says of a file that it cannot read, without its advice to let the file run."""
    cause = re.search(r"WeightsUnpickler error: (.*)", str(error))
    said = first_line(cause[1] if cause else str(error)) or "a pickle that torch.save did not write"
    return said if isinstance(error, pickle.UnpicklingError | RuntimeError) else f"{type(error).__name__}: {said}"


def _mappings(file: Path, held: Any, where: Where, above: tuple[int, ...]) -> Iterator[tuple[Where, dict[str, Tensor]]]:
    """Every mapping and its tensors; `above`: those it lies in, for one may hold itself."""
    if not isinstance(held, Mapping | list | tuple) or id(held) in above:
        return
    items = {str(n): v for n, v in (held.items() if isinstance(held, Mapping) else enumerate(held))}
    if len(items) < len(held):
        raise CheckpointError(f"{file}: of the names {some(list(map(repr, held)))}, two differ only in their types")
    if isinstance(held, Mapping):
        yield where, {n: v for n, v in items.items() if isinstance(v, Tensor)}
    for name, inner in items.items():
        yield from _mappings(file, inner, (*where, name), (*above, id(held)))
