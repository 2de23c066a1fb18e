"""Files that are either whole or absent, and where the files about an output lie."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, in the folder of `path`; it becomes `path` if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes a private file; results are to be shared
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """The digest of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_path(output: str | Path) -> str:
    """Where the recipe of the job that makes `output` lies: results/x/y.csv -> results/recipes/x/y.csv.json."""
    root, *rest = Path(output).parts
    return str(Path(root, "recipes", *rest)) + ".json"


def note_path(output: str | Path) -> str:
    """Where the note of origin of an artefact lies: beside it."""
    return f"{output}.json"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
