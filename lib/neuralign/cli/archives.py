"""The folder in which commands keep the archives that they download, for the next command. Torch-free."""

import logging
import os
from pathlib import Path

from neuralign.config.options import checksum
from neuralign.config.plugins import Entry

OF_WORKFLOW = Path("results", "data", "archives")  # where fetch_data has them, in the folder of a run

log = logging.getLogger("neuralign")


def archive_folder(dataset: Entry) -> Path | None:
    """The folder for the archives of a dataset's entry; None if it has none to download, or if no folder can be had.

    That of the workflow in the working directory if all archives are there, else a cache of the user.
    """
    from neuralign.datasets.reading.locations import archive_prefix, local_path  # numpy, which the help does without

    if "url" not in dataset or local_path(dataset["url"]) is not None:
        return None
    checksums = [value for key, value in dataset.items() if _is_checksum(key, value)]
    if checksums and all(any(OF_WORKFLOW.glob(f"{archive_prefix(value)}*")) for value in checksums):
        return OF_WORKFLOW.absolute()
    try:
        folder = _user_cache() / "neuralign" / "archives"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # no home, or one that cannot be written to
        log.warning("what is downloaded is not kept, because there is no cache folder: %s", error)
        return None
    return folder


def _is_checksum(key: str, value: object) -> bool:
    """Whether this is the checksum of an archive; `content` is that of the examples."""
    try:
        return key != "content" and isinstance(value, str) and bool(checksum(value))
    except ValueError:
        return False


def _user_cache() -> Path:
    """XDG_CACHE_HOME if that is an absolute path, as its specification demands, else ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return folder if folder.is_absolute() else Path.home() / ".cache"
