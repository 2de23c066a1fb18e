"""Which files a checkpoint consists of: one file, or the shards that an index (`*.index.json`) names. Torch-free.

An index maps every tensor to the file beside it that holds it, as Hugging Face writes it for safetensors and for
torch.save. A folder stands for the one checkpoint in it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from neuralign.common.errors import UserError, first_line, some
from neuralign.common.file_kinds import kind

INDEX = ".index.json"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")  # of files that a folder is searched for
NUMBERED = re.compile(r"-\d+-of-(?!0*1\.)\d+\.")  # in the name of a shard; one of one is whole


class CheckpointError(UserError):
    """A file that is no checkpoint of the network; the message says what was found and how near it is."""


@dataclass(frozen=True)
class Shards:
    """The files of a checkpoint. One file alone holds whatever it holds, several hold what the index says."""

    files: tuple[Path, ...]  # an index before its shards
    holders: Mapping[str, str]  # {tensor: name of the shard that holds it}; empty for one file


def shards(path: str | Path) -> Shards:
    """The files of the checkpoint at `path`: a file, an index, or a folder with exactly one of either.

    Raises CheckpointError for anything else, for an index that is damaged, and for shards that are not there.
    """
    path = Path(path)
    if path.is_dir():
        path = _within(path)
    _demand(path)
    if path.suffix != ".json":
        return Shards((path,), {})
    holders = _weight_map(path)
    names = sorted(set(holders.values()))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(f"{path}: names shards that are not beside it: {some(missing)}")
    files = [path.parent / name for name in names]
    for file in files:
        _demand(file)
    return Shards((path, *files), holders)


def is_shard(path: str | Path) -> bool:
    """Whether a file is called as one of several shards are."""
    return NUMBERED.search(Path(path).name) is not None


def _demand(path: Path) -> None:
    """Refuse a file that is not there, or is something else than a checkpoint by its first bytes."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if other := kind(path):
        raise CheckpointError(f"{path}: {other}")


def _within(folder: Path) -> Path:
    """The one checkpoint of a folder: an index with its shards, or a single file."""
    if (folder / ".metadata").is_file():
        raise CheckpointError(
            f"{folder}: a distributed checkpoint of torch, which is not read; make one file of it with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch`"
        )
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    indices = [p for p in visible if p.name.endswith(INDEX)]
    named = {name for index in indices for name in _weight_map(index).values()}
    found = indices + [p for p in visible if p.suffix in SUFFIXES and p.name not in named]
    if len(found) == 1 and not is_shard(found[0]):
        return found[0]
    if not found:
        there = some([p.name for p in visible]) or "nothing"
        raise CheckpointError(f"{folder}: a folder without a checkpoint in it; found {there}")
    if not indices and all(map(is_shard, found)):
        raise CheckpointError(f"{folder}: shards without their {INDEX[1:]}: {some([p.name for p in found])}")
    raise CheckpointError(f"{folder}: {len(found)} checkpoints are in it; name one of {some([p.name for p in found])}")


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: name of its shard}, refused unless every shard is a plain name of a file in the index's folder."""
    _demand(index)
    try:
        held = json.loads(index.read_text(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {first_line(str(error))}") from error
    found = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index}: not an index of shards: a `weight_map` of tensors to files is wanted")
    for tensor, name in found.items():
        if not isinstance(name, str) or not _is_plain(name):
            shown = f"{ascii(name)[:80]}"
            raise CheckpointError(
                f"{index}: {some([tensor])} is in {shown}; a shard is a file beside the index, named without a folder"
            )
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; refused where a name is there twice, for the first would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise ValueError(f"{some([name])} is there twice, as {ascii(found[name])[:80]} and {ascii(value)[:80]}")
        found[name] = value
    return found


def _is_plain(name: str) -> bool:
    return name.isprintable() and "\\" not in name and PurePosixPath(name).name == name and name not in ("", ".", "..")
