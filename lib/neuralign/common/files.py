"""Files that are either whole or absent, and where the files about an output lie."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]

# what a full or read-only disk, a quota or the rights of a folder answer; they seldom say for which file
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_unfinished: set[Path] = set()  # temporary files of this process


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, in the folder of `path`; it becomes `path` if the block ends without an error.

    An `OSError` of a disk that takes no more names `path`.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        _unfinished.add(temporary)
        os.close(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes a private file; results are to be shared
        os.replace(temporary, path)
    except Exception as error:
        if (number := _refusal(error, temporary)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            _unfinished.discard(temporary)


def discard() -> None:
    """Remove the temporary files of all blocks of `atomic` that this process is in; it ends without leaving them."""
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)


def leftovers(path: str | Path) -> list[Path]:
    """Temporary files of `atomic(path)` that a killed process, or one at work, has left."""
    path = Path(path)
    return [p for p in path.parent.glob(f".{path.name}.????????{path.suffix}") if p.is_file()]


def sha256(path: str | Path) -> str:
    """The digest of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_output(recipe: Mapping[str, Any]) -> str:
    """The output of a recipe that its job is known by."""
    return next(iter(recipe["outputs"].values()))


def date_back(paths: Iterable[Path], latest: float, when: float) -> None:
    """Date files from the future, left by a clock that was put back, to `when` if they are of after `latest`: Snakemake
    deletes a result that looks older than what it was made from, however long that took.
    """
    for path in paths:
        if path.exists() and path.stat().st_mtime > latest:
            os.utime(path, (when, when))


def recipe_path(output: str | Path) -> str:
    """Where the recipe of the job that makes `output` lies: results/x/y.csv -> results/recipes/x/y.csv.json."""
    root, *rest = Path(output).parts
    return str(Path(root, "recipes", *rest)) + ".json"


def note_path(output: str | Path) -> str:
    """Where the note of origin of an artefact lies: beside it."""
    return f"{output}.json"


def _refusal(error: Exception, temporary: Path | None) -> int | None:
    """The error number, where it is the disk that refuses this very file."""
    if isinstance(error, OSError):
        ours = temporary is None or error.filename in (None, str(temporary))
        return error.errno if ours and error.errno in REFUSALS else None
    # libraries written in Rust, as safetensors, tell it in words: "... (os error 28)"
    return next((number for number in REFUSALS if f"(os error {number})" in str(error)), None)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
