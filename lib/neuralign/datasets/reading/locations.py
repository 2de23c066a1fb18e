"""Where data comes from, a local path or a remote address, and a digest of local content. Imports no libraries."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from neuralign.common.errors import UserError
from neuralign.common.files import atomic, sha256
from neuralign.common.shards import checkpoint_files
from neuralign.config.options import address
from neuralign.config.plugins import Entry
from neuralign.datasets.dataset import DataError

# seconds; a file that was changed more recently could change again without getting another modification time
SETTLED = 2.0


def local_path(url: str) -> Path | None:
    """The path of a source written as a plain path or file:///path; None for http and https. Refuses other schemes."""
    try:
        parts = urlsplit(address(url))
    except ValueError as error:
        raise DataError(f"{url}: {error}") from None
    if parts.scheme in ("http", "https"):
        return None
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(url)


def archive_prefix(checksum: str) -> str:
    """How the name of a downloaded archive with this checksum, `algorithm:digest`, begins."""
    return f"{checksum.partition(':')[2][:16].lower()}-"


def source_name(entry: Entry) -> str:
    """What messages call the source of a dataset entry: its path, its address or the name of its plug-in."""
    return str(entry.get("path") or entry.get("url") or entry["use"])


def visible_paths(folder: Path, pattern: str) -> list[Path]:
    """The paths in a folder that match the pattern, sorted; without hidden ones, such as .DS_Store."""
    return sorted(p for p in folder.glob(pattern) if not any(n.startswith(".") for n in p.relative_to(folder).parts))


def content_digest(entry: Entry, memo: Path | None = None) -> str:
    """A digest of a local source, the checksum of a remote one, "" for data that the plug-in generates.

    The digest of a `checkpoint` covers all its shards. Raises DataError if the source does not exist.

    Args:
        entry: With the key `path`, `url` (and `checksum`) or `checkpoint`, or without any of them.
        memo: A JSON file that keeps the digests. One is used again while the names, sizes and modification times of
            the files of its source stay the same.
    """
    path = Path(entry["path"]) if entry.get("path") else local_path(entry["url"]) if "url" in entry else None
    if "checkpoint" in entry:
        path, files = _stat_checkpoint(entry["checkpoint"])
    elif path is None:
        return str(entry.get("checksum", ""))
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    else:
        files = _stat_folder(path) if path.is_dir() else {"": path.stat()}
    stamp = _digest(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for name, stat in files.items())
    key = str(path.absolute())
    digests = _read_memo(memo)
    if digests.get(key, ("", ""))[0] == stamp:
        return digests[key][1]
    digest = _digest(f"{name}\0{sha256(path / name)}\n" for name in files)
    if memo is not None and time.time() - max((stat.st_mtime for stat in files.values()), default=0.0) > SETTLED:
        with atomic(memo) as part:
            part.write_text(json.dumps(digests | {key: (stamp, digest)}, indent=1))
    return digest


def _stat_folder(folder: Path) -> dict[str, os.stat_result]:
    """{path in the folder: stat} of all visible files, sorted. By os.scandir, because there may be millions."""
    files = _walk(str(folder), frozenset())
    return dict(sorted((file.path.removeprefix(f"{folder}{os.sep}"), file.stat()) for file in files))


def _walk(folder: str, parents: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    """The visible files in a folder and in its subfolders; one that a link leads back to is left out."""
    place = os.path.realpath(folder)
    for entry in _list(folder) if place not in parents else ():
        if entry.is_dir():
            yield from _walk(entry.path, parents | {place})
        elif entry.is_file():
            yield entry


def _stat_checkpoint(name: str) -> tuple[Path, dict[str, os.stat_result]]:
    """(the file, {"": its stat}); for shards (their folder, {file: stat} of the index and the shards)."""
    try:
        first, *shards = checkpoint_files(name).files
    except UserError as error:
        raise DataError(str(error)) from None
    if not shards:
        return first, {"": first.stat()}
    return first.parent, {file.name: file.stat() for file in (first, *shards)}


def _list(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, without hidden ones."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_memo(memo: Path | None) -> dict[str, tuple[str, str]]:
    """{path: (stamp of names, sizes and times, digest)}; {} if the file does not exist or is damaged."""
    try:
        content = json.loads(memo.read_text()) if memo is not None else {}
        return {str(key): (str(stamp), str(digest)) for key, (stamp, digest) in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
