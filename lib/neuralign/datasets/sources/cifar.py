"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official "python version" archives."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuralign.config.options import Address, Checksum
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading.archives import tar_members
from neuralign.datasets.reading.downloads import verified
from neuralign.datasets.reading.pickles import unpickled

TRAIN = {10: [f"data_batch_{i}" for i in range(1, 6)], 100: ["train"]}
TEST = {10: ["test_batch"], 100: ["test"]}
META = {10: ("batches.meta", "label_names"), 100: ("meta", "fine_label_names")}
LABELS = {10: "labels", 100: "fine_labels"}


def cifar(cache: Path, *, classes: Literal[10, 100], url: Address, checksum: Checksum) -> Dataset:
    """Images (n, 3, 32, 32) in file order; of CIFAR-100 the fine labels.

    Args:
        classes: 10 for CIFAR-10, 100 for CIFAR-100.
        url: Where the archive is.
        checksum: Digest of the archive; another file is refused.
    """
    path = verified(url, checksum, cache)
    meta, names = META[classes]
    members = tar_members(path, [*TRAIN[classes], *TEST[classes], meta])
    values = {name: unpickled(members.pop(name), f"{path}: {name}") for name in list(members)}
    train, test = (
        _joined([_batch(values.pop(name), LABELS[classes], f"{path}: {name}") for name in part[classes]])
        for part in (TRAIN, TEST)
    )
    found = values[meta].get(names)
    if not isinstance(found, list) or len(found) != classes:
        raise DataError(f"{path}: {meta} holds no list of {classes} names under {names!r}")
    return Dataset(train, test, tuple(str(name) for name in found))


def _batch(value: dict[str, Any], key: str, source: str) -> Split:
    rows, labels = value.get("data"), value.get(key)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise DataError(f"{source}: 'data' is no uint8 array of shape (n, 3072)")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{source}: {key!r} is no list of integers")
    return Split(rows.reshape(-1, 3, 32, 32), np.array(labels, np.int64))


def _joined(batches: list[Split]) -> Split:
    return Split(np.concatenate([b.images for b in batches]), np.concatenate([b.labels for b in batches]))
