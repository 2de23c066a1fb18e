"""A lock by which only one run of the workflow is at work in a folder; the kernel releases it when its holder dies.

Snakemake's own lock is a file that remains when a run is killed by SIGKILL, and then has to be removed before the next
run. Only a process that holds the lock of this module exclusively may remove that file: `neuralign run`, which is also
what `make study` does, and `neuralign connect` hold it, and the Snakemake that they start inherits it. A Snakemake that
was started by hand takes a shared lock: it keeps those two out, and Snakemake's own lock keeps out a second Snakemake.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from neuralign.common.errors import UserError

LOCK = Path("results", ".running")
_shared: list[TextIO] = []  # open lock files: closing one would release its lock before this process ends


class Busy(UserError):
    """Another run is at work in the folder."""


@contextmanager
def exclusive(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder exclusively; yields the file descriptor. A child that inherits it holds the lock too.

    Raises `Busy` if another run is at work.
    """
    with _open(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another run is at work in {folder} ({LOCK} there is locked); wait for it, or end it") from None
        file.truncate(0)
        yield file.fileno()


def has_begun(folder: Path) -> bool:
    """Whether Snakemake has come to its first job since this process took the lock of the folder."""
    return (folder / LOCK).stat().st_size > 0


def share(folder: Path) -> None:
    """Hold a shared lock of a folder until this process ends, and write to its file that jobs begin (`has_begun`).

    The lock is not taken if the process that started this one holds it.
    """
    file = _open(folder)
    file.write("jobs have begun\n")
    file.flush()
    with suppress(OSError):  # a parent holds it, or the file system has no such locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _shared.append(file)


def _open(folder: Path) -> TextIO:
    """The lock file of a folder, created if need be."""
    path = folder / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")
