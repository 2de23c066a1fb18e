"""One run of the workflow at a time in a folder, told by a lock that the kernel takes back when its holder dies.

Snakemake's own lock is a file, which outlives a run that was killed outright. Whoever holds this one may remove it:
`make study` (with flock(1)) and `neuralign connect` hold it alone, and so does the Snakemake that they start. A
Snakemake that was started by hand shares it, for its own lock keeps others of its kind out.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from neuralign.common.errors import UserError

LOCK = Path("results", ".running")
_shared: list[TextIO] = []  # held until this process ends


class Busy(UserError):
    """Another run is at work in the folder."""


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder; gives its handle, with which a child that inherits it holds the lock too.

    Raises Busy where another run is at work.
    """
    with _opened(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another run is at work in {folder} ({LOCK} there is locked); wait for it, or end it") from None
        yield file.fileno()


def share(folder: Path) -> None:
    """Keep out those who would run alone in a folder, as long as this process lives, unless one of them started it."""
    file = _opened(folder)
    with suppress(OSError):  # held by a parent; or a file system without such locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _shared.append(file)


def _opened(folder: Path) -> TextIO:
    path = folder / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")
