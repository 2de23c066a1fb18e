"""The files that a checkpoint consists of: one file, or an index (`*.index.json`) and its shards. Torch-free.

An index maps the name of every tensor to the name of the file beside it that holds the tensor, as Hugging Face writes
it for safetensors and for torch.save. A folder that contains exactly one checkpoint may be named in its place.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from neuralign.common.errors import UserError, first_line, join_names
from neuralign.common.file_kinds import describe_other_kind

INDEX = ".index.json"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")  # of checkpoints in a folder
NUMBERED = re.compile(r"-\d+-of-(?!0*1\.)\d+\.")  # in the name of a shard; -00001-of-00001 is a complete checkpoint


class CheckpointError(UserError):
    """A file that is no checkpoint of the network. The message says what was found and what does not fit."""


@dataclass(frozen=True)
class CheckpointFiles:
    files: tuple[Path, ...]  # one file, or the index followed by its shards
    shard_of: Mapping[str, str]  # {tensor: name of the shard that holds it}; empty for one file


def checkpoint_files(path: str | Path) -> CheckpointFiles:
    """The files of the checkpoint at `path`: a file, an index, or a folder that contains exactly one checkpoint.

    Raises CheckpointError for anything else, for a damaged index, and for missing shards.
    """
    path = Path(path)
    if path.is_dir():
        path = _find_in_folder(path)
    _refuse_other_kinds(path)
    if path.suffix != ".json":
        return CheckpointFiles((path,), {})
    shard_of = read_index(path)
    names = sorted(set(shard_of.values()))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(f"{path}: shards that it names are not in its folder: {join_names(missing)}")
    shards = [path.parent / name for name in names]
    for shard in shards:
        _refuse_other_kinds(shard)
    return CheckpointFiles((path, *shards), shard_of)


def is_shard(path: str | Path) -> bool:
    """Whether the name of a file is that of one of several shards."""
    return NUMBERED.search(Path(path).name) is not None


def _refuse_other_kinds(path: Path) -> None:
    """Raise CheckpointError if the file does not exist, or if its first bytes show that it is no checkpoint."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if description := describe_other_kind(path):
        raise CheckpointError(f"{path}: is {description}")


def _find_in_folder(folder: Path) -> Path:
    """The index, or else the file, of the one checkpoint in a folder."""
    if (folder / ".metadata").is_file():
        raise CheckpointError(
            f"{folder}: is a checkpoint of torch.distributed, which cannot be read; convert it to one file with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch`"
        )
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    indices = [p for p in visible if p.name.endswith(INDEX)]
    indexed = {name for index in indices for name in read_index(index).values()}
    checkpoints = indices + [p for p in visible if p.suffix in SUFFIXES and p.name not in indexed]
    names = join_names([p.name for p in checkpoints])
    if len(checkpoints) == 1 and not is_shard(checkpoints[0]):
        return checkpoints[0]
    if not checkpoints:
        content = join_names([p.name for p in visible]) or "nothing"
        raise CheckpointError(f"{folder}: a folder without a checkpoint; found {content}")
    if not indices and all(map(is_shard, checkpoints)):
        raise CheckpointError(f"{folder}: shards without their {INDEX[1:]}: {names}")
    raise CheckpointError(f"{folder}: contains {len(checkpoints)} checkpoints; name one of {names}")


def read_index(index: Path) -> dict[str, str]:
    """{tensor: name of its shard}. Refuses names of shards with folders in them, which could lead anywhere."""
    _refuse_other_kinds(index)
    try:
        content = json.loads(index.read_text(), object_pairs_hook=_refuse_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {first_line(str(error))}") from error
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{index}: not an index of shards: needs `weight_map`, a mapping of tensors to files")
    for tensor, name in shard_of.items():
        if not isinstance(name, str) or not _is_plain(name):
            raise CheckpointError(
                f"{index}: {join_names([tensor])} is in {ascii(name)[:80]}; only the name of a file in the folder of "
                "the index is allowed"
            )
    return shard_of


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs. Raises ValueError for a key with two values, of which json would keep the last."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content and content[key] != value:
            values = f"{ascii(content[key])[:80]} and {ascii(value)[:80]}"
            raise ValueError(f"{join_names([key])} occurs twice, with {values}")
        content[key] = value
    return content


def _is_plain(name: str) -> bool:
    """Whether this is the name of a file without a folder."""
    return name.isprintable() and "\\" not in name and PurePosixPath(name).name == name and name not in ("", ".", "..")
