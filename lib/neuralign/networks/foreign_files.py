"""Reads the tensors in other people's checkpoint files, without executing any code in them.

The content of a file is a tree of mappings and lists (`state_dict`, `model`, `optimizer`, ...) with tensors in it. The
shards of one index are read as one mapping.
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

from neuralign.common.errors import first_line, join_names
from neuralign.common.file_kinds import describe_text
from neuralign.common.shards import CheckpointError, checkpoint_files, is_shard

Location = tuple[str, ...]  # keys that lead to a mapping, outermost first; () for the file's outermost mapping


def read_mappings(path: str | Path) -> dict[Location, dict[str, Tensor]]:
    """{location: {name: tensor}}: all mappings of a checkpoint that hold tensors.

    `path`: a safetensors file, a file of torch.save, an index of shards, or a folder with one of these. Raises
    CheckpointError for anything else.
    """
    checkpoint = checkpoint_files(path)
    if checkpoint.shard_of:
        return {(): _join_shards(checkpoint.files[0], checkpoint.shard_of)}
    (file,) = checkpoint.files
    return _read_file(file)


def shard_hint(path: str | Path) -> str:
    """For a message about missing tensors: that the file is one of several shards, if its name says so; else ""."""
    return "; the file is one of several shards: name their index.json, or the folder" if is_shard(path) else ""


def _read_file(file: Path) -> dict[Location, dict[str, Tensor]]:
    try:
        mappings = {location: tensors for location, tensors in _find_mappings(file, _load(file), (), ()) if tensors}
    except RecursionError as error:
        raise CheckpointError(f"{file}: nested too deeply; a state_dict is needed") from error
    if not mappings:
        raise CheckpointError(f"{file}: contains no named tensors; a state_dict is needed")
    return mappings


def _join_shards(index: Path, shard_of: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of all shards; every shard must hold exactly those that the index assigns to it."""
    joined: dict[str, Tensor] = {}
    for shard_name in sorted(set(shard_of.values())):
        shard = index.parent / shard_name
        mappings = _read_file(shard)
        if mappings.keys() != {()}:
            locations = join_names([".".join(location) for location in mappings if location])
            raise CheckpointError(
                f"{shard}: its tensors lie inside {locations}; {index.name} needs them at the top of the file"
            )
        tensors, expected = mappings[()], {name for name, shard in shard_of.items() if shard == shard_name}
        if missing := sorted(expected - tensors.keys()):
            raise CheckpointError(f"{shard}: lacks tensors that {index.name} assigns to it: {join_names(missing)}")
        if misplaced := sorted(tensors.keys() & shard_of.keys() - expected):
            right_shard = shard_of[misplaced[0]]
            raise CheckpointError(
                f"{shard}: holds {join_names(misplaced)}, which {index.name} assigns to {right_shard}"
            )
        if extra := sorted(tensors.keys() - expected):
            raise CheckpointError(f"{shard}: holds tensors that {index.name} does not name: {join_names(extra)}")
        joined |= tensors
    return {name: joined[name] for name in shard_of}


def _load(file: Path) -> Any:
    """The content of a file, tried as safetensors first, then as a file of torch.save."""
    try:
        return load_file(file)
    except SafetensorError as error:
        safetensors_error = first_line(str(error))
    try:
        if damaged := _find_damaged_member(file):
            raise CheckpointError(f"{file}: damaged: the checksum of {join_names([damaged])} in it is wrong")
        # an open file, because torch.load chooses a reader by the suffix of a path
        with warnings.catch_warnings(), file.open("rb") as opened:
            warnings.simplefilter("ignore")  # about how the file was written, which the user cannot change
            return torch.load(opened, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file may raise anything
        if blocked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f"holds a Python object ({blocked[1]}), and loading it could execute code; save model.state_dict()"
        else:
            detail = safetensors_error if file.suffix == ".safetensors" else _shorten_message(error)
            reason = f"neither a safetensors file nor one of torch.save, or damaged ({describe_text(file) or detail})"
        raise CheckpointError(f"{file}: {reason}") from error


def _find_damaged_member(file: Path) -> str | None:
    """The first member of a zip archive of torch.save whose checksum is wrong; torch.load does not check it."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return archive.testzip()


def _shorten_message(error: Exception) -> str:
    """The message of torch.load, without its advice to allow the execution of code."""
    cause = re.search(r"WeightsUnpickler error: (.*)", str(error))
    message = first_line(cause[1] if cause else str(error)) or "a pickle that torch.save did not write"
    return message if isinstance(error, pickle.UnpicklingError | RuntimeError) else f"{type(error).__name__}: {message}"


def _find_mappings(
    file: Path, content: Any, location: Location, ancestors: tuple[int, ...]
) -> Iterator[tuple[Location, dict[str, Tensor]]]:
    """(location, {name: tensor}) of every mapping in `content`, at any depth.

    `ancestors`: ids of the objects that contain `content`; an object that contains itself is not entered again.
    """
    if not isinstance(content, Mapping | list | tuple) or id(content) in ancestors:
        return
    items = {str(n): v for n, v in (content.items() if isinstance(content, Mapping) else enumerate(content))}
    if len(items) < len(content):
        keys = join_names(list(map(repr, content)))
        raise CheckpointError(f"{file}: two of the keys {keys} are the same as text; names must differ")
    if isinstance(content, Mapping):
        yield location, {name: value for name, value in items.items() if isinstance(value, Tensor)}
    for name, value in items.items():
        yield from _find_mappings(file, value, (*location, name), (*ancestors, id(content)))
