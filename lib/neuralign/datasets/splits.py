"""Which examples are trained on, in which order, and which are kept for testing. Torch-free."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuralign.config.plugins import Entry, plugin
from neuralign.datasets.checks import check
from neuralign.datasets.dataset import ArrayDataset, DataError, Dataset, Split
from neuralign.datasets.reading import large_arrays
from neuralign.datasets.reading.locations import source_name

APPLIED_LATER = ("augment", "mean", "std")  # keys of a dataset that the jobs which read its file apply


def prepare(entry: Entry, archives: Path) -> Dataset:
    """The dataset of a checked config entry: read by its plug-in, checked, sorted and split as the entry says.

    Raises DataError if it has the wrong types, shapes, labels or content, or too few examples for the split.

    Args:
        entry: The keys of the entry; those of `APPLIED_LATER` may be missing.
        archives: The folder for downloaded archives, and for arrays that do not fit into memory.
    """
    options = {key: value for key, value in entry.items() if key not in APPLIED_LATER}
    content, fraction = options.pop("content", None), options.pop("validation_fraction", None)
    dataset, source = plugin("datasets", options)(archives), source_name(entry)
    check(dataset, source)
    if content is not None:
        dataset = _sort_by_digest(dataset, content, source, archives)
    if fraction is not None:
        dataset = _hold_out(dataset, fraction, archives)
        check(dataset, f"{source}, with validation_fraction {fraction:g}")
    return dataset


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(n,) bool, true for the second part: a random `fraction` of each class."""
    draws = np.random.RandomState(seed)  # numpy guarantees its stream; newer generators may change between versions
    is_second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = draws.permutation(np.flatnonzero(labels == label))
        is_second[members[: round(fraction * len(members))]] = True
    return is_second


def content_of(dataset: Dataset) -> str:
    """`sha256:<64 hex digits>` of all examples of both splits. It does not depend on their order."""
    return _combine_digests(_digests_of_splits(dataset))


def _sort_by_digest(dataset: Dataset, content: str, source: str, folder: Path) -> Dataset:
    """The dataset with each split sorted by the digests of its examples. Raises DataError if `content` differs."""
    digests = _digests_of_splits(dataset)
    digest = _combine_digests(digests)
    if digest != content.lower():
        what = "data are" if isinstance(dataset, ArrayDataset) else "images and labels are"
        raise DataError(f"{source}: its {what} not those of `content`; found {digest}, needed {content}")
    train, test = (np.array(sorted(range(len(d)), key=d.__getitem__), np.int64) for d in digests)
    return replace(dataset, train=_select(dataset.train, train, folder), test=_select(dataset.test, test, folder))


def _hold_out(dataset: Dataset, fraction: float, folder: Path) -> Dataset:
    """The dataset with a part of the training examples as its test split, drawn with seed 0; by class for images."""
    train = dataset.train
    strata = np.zeros(len(train.targets)) if isinstance(dataset, ArrayDataset) else train.targets
    is_test = stratified_split(strata, fraction, seed=0)
    parts = [_select(train, np.flatnonzero(mask), folder) for mask in (~is_test, is_test)]
    return replace(dataset, train=parts[0], test=parts[1])


def _select(split: Split, index: np.ndarray, folder: Path) -> Split:
    return Split(*(large_arrays.select(array, index, folder) for array in (split.inputs, split.targets)))


def _digests_of_splits(dataset: Dataset) -> list[list[bytes]]:
    """The digest of every example with its target, for both splits; shapes and types count, too."""
    digest = _digest_arrays if isinstance(dataset, ArrayDataset) else _digest_images
    return [digest(split) for split in (dataset.train, dataset.test)]


def _digest_images(split: Split) -> list[bytes]:
    shape = repr(split.inputs.shape[1:]).encode()
    return [
        hashlib.sha256(b"%s %d " % (shape, label) + image.tobytes()).digest()
        for image, label in zip(split.inputs, split.targets.tolist(), strict=True)
    ]


def _digest_arrays(split: Split) -> list[bytes]:
    kind = " ".join(f"{array.dtype} {array.shape[1:]}" for array in (split.inputs, split.targets)).encode()
    return [
        hashlib.sha256(kind + x.tobytes() + y.tobytes()).digest()
        for x, y in zip(split.inputs, split.targets, strict=True)
    ]


def _combine_digests(digests: list[list[bytes]]) -> str:
    """One digest of the digests of all examples, from a list for each split, whose order does not count."""
    parts = [hashlib.sha256(b"".join(sorted(split))).digest() for split in digests]
    return f"sha256:{hashlib.sha256(b''.join(parts)).hexdigest()}"
