"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official "python version" archives."""

import pickle
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from neuralign.config.options import Address, Checksum
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading.downloads import fetch_verified

# by number of classes: names of files in the archive, and keys in what is pickled there
TRAIN = {10: [f"data_batch_{i}" for i in range(1, 6)], 100: ["train"]}
TEST = {10: ["test_batch"], 100: ["test"]}
META = {10: ("batches.meta", "label_names"), 100: ("meta", "fine_label_names")}
LABELS = {10: "labels", 100: "fine_labels"}
# the errors of tarfile, pickle and numpy for a file with other content
UNREADABLE = (tarfile.TarError, zlib.error, OSError, EOFError, pickle.PickleError, LookupError, TypeError, ValueError)


def cifar(cache: Path, *, classes: Literal[10, 100], url: Address, checksum: Checksum) -> Dataset:
    """Images (n, 3, 32, 32) in file order; the labels of CIFAR-100 are the fine ones.

    Args:
        classes: 10 for CIFAR-10, 100 for CIFAR-100.
        url: Address or path of the archive.
        checksum: Digest of the archive; another file is refused.
    """
    path = fetch_verified(url, checksum, cache)
    meta, names = META[classes]
    try:
        contents = _unpickle(path, [*TRAIN[classes], *TEST[classes], meta])
        train, test = ([contents[name] for name in files[classes]] for files in (TRAIN, TEST))
        return Dataset(
            _concatenate(train, LABELS[classes]), _concatenate(test, LABELS[classes]), tuple(contents[meta][names])
        )
    except UNREADABLE as error:
        raise DataError(f"{path}: not the archive of CIFAR-{classes}, python version: {error}") from error


def _unpickle(path: Path, names: list[str]) -> dict[str, Any]:
    """{file name: unpickled content}. Unpickling can execute code: the checksum must have been verified before."""
    with tarfile.open(path, "r:gz") as tar:
        members = {PurePosixPath(member.name).name: member for member in tar if member.isreg()}
        if missing := [name for name in names if name not in members]:
            raise LookupError(f"it has no member {', '.join(missing)}")
        return {name: pickle.load(tar.extractfile(members[name]), encoding="latin1") for name in names}  # type: ignore[arg-type]


def _concatenate(batches: list[dict[str, Any]], labels: str) -> Split:
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return Split(images, np.concatenate([batch[labels] for batch in batches]))
