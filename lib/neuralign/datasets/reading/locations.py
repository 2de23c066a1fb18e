"""Where data comes from: local paths, remote addresses, and a digest of what lies there. Only the standard library."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from neuralign.common.errors import UserError
from neuralign.common.files import atomic, sha256
from neuralign.common.shards import checkpoint_files
from neuralign.config.options import address
from neuralign.datasets.dataset import DataError

Entry = Mapping[str, Any]
SETTLED = 2.0  # seconds; a file changed later than this may change again without a new modification time


def local(url: str) -> Path | None:
    """The path of a source given as plain path or file:///path; None for http and https. Other schemes are refused."""
    try:
        parts = urlsplit(address(url))
    except ValueError as error:
        raise DataError(f"{url}: {error}") from None
    if parts.scheme in ("http", "https"):
        return None
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(url)


def described(entry: Entry) -> str:
    """What error messages call the source of this entry: its path, its address or the name of its plug-in."""
    return str(entry.get("path") or entry.get("url") or entry["use"])


def visible(folder: Path, pattern: str) -> list[Path]:
    """What lies in the folder under the pattern, sorted by name; hidden files (.DS_Store and the like) do not count."""
    return sorted(p for p in folder.glob(pattern) if not any(n.startswith(".") for n in p.relative_to(folder).parts))


def identity(entry: Entry, memo: Path | None = None) -> str:
    """A digest of the content of a local source; of a remote one its checksum; "" where all data is made by code.

    A `checkpoint` counts with all its shards.
    `memo` is a JSON file of digests already computed; one is believed while no name, size or modification time of its
    source has changed.
    """
    path = Path(entry["path"]) if "path" in entry else local(entry["url"]) if "url" in entry else None
    if "checkpoint" in entry:
        path, files = _checkpoint(entry["checkpoint"])
    elif path is None:
        return str(entry.get("checksum", ""))
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    else:
        files = _listing(path) if path.is_dir() else {"": path.stat()}
    stamp = _digest(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for name, stat in files.items())
    key = str(path.absolute())
    known = _read(memo)
    if known.get(key, ("", ""))[0] == stamp:
        return known[key][1]
    found = _digest(f"{name}\0{sha256(path / name)}\n" for name in files)
    if memo is not None and time.time() - max((stat.st_mtime for stat in files.values()), default=0.0) > SETTLED:
        with atomic(memo) as part:
            part.write_text(json.dumps(known | {key: (stamp, found)}, indent=1))
    return found


def _listing(folder: Path) -> dict[str, os.stat_result]:
    """{split/class/file: stat}, sorted: the visible files of the class folders, which may be very many."""
    classes = (group for split in _scan(folder) if split.is_dir() for group in _scan(split.path) if group.is_dir())
    files = (file for group in classes for file in _scan(group.path) if file.is_file())
    return dict(sorted((file.path.removeprefix(f"{folder}{os.sep}"), file.stat()) for file in files))


def _checkpoint(name: str) -> tuple[Path, dict[str, os.stat_result]]:
    """The file, or the folder of the shards and {file: stat} of the index and them."""
    try:
        first, *others = checkpoint_files(name).files
    except UserError as error:
        raise DataError(str(error)) from None
    if not others:
        return first, {"": first.stat()}
    return first.parent, {file.name: file.stat() for file in (first, *others)}


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _digest(lines: Iterable[str]) -> str:
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode(errors="surrogateescape"))
    return state.hexdigest()


def _read(memo: Path | None) -> dict[str, tuple[str, str]]:
    """The digests kept; a damaged memo is as good as none."""
    try:
        kept = json.loads(memo.read_text()) if memo is not None else {}
        return {str(key): (str(stamp), str(digest)) for key, (stamp, digest) in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
