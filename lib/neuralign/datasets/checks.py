"""What every dataset must satisfy before it is written."""

import numpy as np

from neuralign.common.errors import join_names
from neuralign.datasets.dataset import DataError, Dataset, Split


def check(dataset: Dataset, source: str) -> None:
    """Raise a DataError that names the source, what was found and what is allowed, unless the dataset is sound."""
    classes = dataset.classes
    if len(classes) < 2:
        raise DataError(f"{source}: {len(classes)} class, at least 2 are needed")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise DataError(f"{source}: class names must differ, but {join_names(twice)} occurs more than once")
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        _check_images(split.images, f"{source}: {name} images")
        _check_labels(split, len(classes), f"{source}: {name} labels")
    train, test = dataset.train.images.shape[1:], dataset.test.images.shape[1:]
    if train != test:
        raise DataError(f"{source}: train images have shape {train}, test images {test} (channels, height, width)")
    if flat := [c for c, plane in enumerate(np.moveaxis(dataset.train.images, 1, 0)) if plane.min() == plane.max()]:
        raise DataError(f"{source}: channel {flat[0]} of train has one value only, so that it cannot be normalised")
    present = set(np.unique(dataset.train.labels).tolist())
    if absent := [name for label, name in enumerate(classes) if label not in present]:
        raise DataError(f"{source}: no train image of class {join_names(absent)}; every class must occur in train")


def _check_images(images: np.ndarray, what: str) -> None:
    if images.dtype != np.uint8:
        raise DataError(f"{what} are {_found(images)}; only uint8 pixels in 0 .. 255 are allowed")
    if images.ndim != 4:
        raise DataError(f"{what} have shape {images.shape}; (n, channels, height, width) is needed")
    if not images.size:
        raise DataError(f"{what} have shape {images.shape}: there is nothing in them, at least one image is needed")


def _check_labels(split: Split, classes: int, what: str) -> None:
    labels = split.labels
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"{what} are {labels.dtype} of shape {labels.shape}; int64 of shape (n,) is needed")
    if len(labels) != len(split.images):
        raise DataError(f"{what}: {len(labels)} for {len(split.images)} images")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(f"{what}: {labels[wrong[0]]} at index {wrong[0]}; only 0 .. {classes - 1} are allowed")


def _found(images: np.ndarray) -> str:
    """The type and, of floating numbers, the range: it tells why they are no pixels."""
    if images.dtype.kind != "f" or not images.size:
        return str(images.dtype)
    finite = images[np.isfinite(images)]
    span = f" in {finite.min():g} .. {finite.max():g}" if finite.size else ""
    return f"{images.dtype}{span}, {images.size - finite.size} of them not finite"
