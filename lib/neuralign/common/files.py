"""Atomic writing of files, their digests, and the paths of the recipe and the provenance note of an output."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]  # the folder lib/neuralign

# a full or read-only disk, a quota, missing permissions: errors whose messages seldom name the file
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_temporaries: set[Path] = set()  # files that `atomic` blocks of this process are writing


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, to write to; it is renamed to `path` if the block raises no error.

    For the errors in DISK_ERRORS, the `OSError` names `path`.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        _temporaries.add(temporary)
        os.close(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp creates private files; results are shared
        os.replace(temporary, path)
    except Exception as error:
        if (number := _disk_error_number(error, temporary)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            _temporaries.discard(temporary)


def discard() -> None:
    """Remove the temporary files of all `atomic` blocks in progress; for a process that is about to end."""
    for temporary in list(_temporaries):
        temporary.unlink(missing_ok=True)


def leftovers(path: str | Path) -> list[Path]:
    """The temporary files of `atomic(path)`, of processes that were killed or are still writing."""
    path = Path(path)
    return [p for p in path.parent.glob(f".{path.name}.????????{path.suffix}") if p.is_file()]


def sha256(path: str | Path) -> str:
    """The SHA-256 digest of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_output(recipe: Mapping[str, Any]) -> str:
    """The first output of a recipe, which identifies its job."""
    return next(iter(recipe["outputs"].values()))


def date_back(paths: Iterable[Path], latest: float, when: float) -> None:
    """Set the modification time of files to `when` where it is later than `latest` (both in seconds since the epoch).

    After a clock has been set back, files have times in the future, and outputs written now look older than these
    inputs. Snakemake deletes such outputs.
    """
    for path in paths:
        if path.exists() and path.stat().st_mtime > latest:
            os.utime(path, (when, when))


def recipe_path(output: str | Path) -> str:
    """The path of the recipe of the job that makes `output`: results/x/y.csv -> results/recipes/x/y.csv.json."""
    root, *rest = Path(output).parts
    return str(Path(root, "recipes", *rest)) + ".json"


def note_path(output: str | Path) -> str:
    """The path of the provenance note of an artefact, beside it."""
    return f"{output}.json"


def _disk_error_number(error: Exception, temporary: Path | None) -> int | None:
    """The error's number if it is one of DISK_ERRORS and concerns `temporary`, else None."""
    if isinstance(error.__context__, OSError) and not isinstance(error, OSError):
        error = error.__context__  # torch.save ends its file after the error, and raises another one then
    if isinstance(error, OSError):
        is_this_file = temporary is None or error.filename in (None, str(temporary))
        return error.errno if is_this_file and error.errno in DISK_ERRORS else None
    # safetensors, which is written in Rust, has the number in its message: "... (os error 28)"
    return next((number for number in DISK_ERRORS if f"(os error {number})" in str(error)), None)


def _umask() -> int:
    """The process' file mode creation mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
