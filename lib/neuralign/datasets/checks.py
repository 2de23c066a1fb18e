"""The check of a dataset before it is written."""

import numpy as np

from neuralign.common.errors import join_names
from neuralign.datasets.dataset import DataError, Dataset, Split


def check(dataset: Dataset, source: str) -> None:
    """Raise a DataError unless images and labels have the right types and shapes and every class occurs in train.

    `source` says in the message where the data comes from.
    """
    classes = dataset.classes
    if len(classes) < 2:
        raise DataError(f"{source}: found {len(classes)} class; at least 2 are needed")
    if repeated := sorted({name for name in classes if classes.count(name) > 1}):
        raise DataError(f"{source}: class names must differ, but {join_names(repeated)} occurs more than once")
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        _check_images(split.images, f"{source}: {name} images")
        _check_labels(split, len(classes), f"{source}: {name} labels")
    train_shape, test_shape = dataset.train.images.shape[1:], dataset.test.images.shape[1:]
    if train_shape != test_shape:
        shapes = f"train images have shape {train_shape}, test images {test_shape}"
        raise DataError(f"{source}: {shapes} (channels, height, width); they must be the same")
    if constant := [c for c, plane in enumerate(np.moveaxis(dataset.train.images, 1, 0)) if plane.min() == plane.max()]:
        raise DataError(
            f"{source}: channel {constant[0]} of the train images has one value only; it must vary, to be normalised"
        )
    present = set(np.unique(dataset.train.labels).tolist())
    if absent := [name for label, name in enumerate(classes) if label not in present]:
        raise DataError(f"{source}: no train image of class {join_names(absent)}; every class must occur in train")


def _check_images(images: np.ndarray, subject: str) -> None:
    if images.dtype != np.uint8:
        raise DataError(f"{subject} are {_describe_values(images)}; only uint8 pixels in 0 .. 255 are allowed")
    if images.ndim != 4:
        raise DataError(f"{subject} have shape {images.shape}; (n, channels, height, width) is needed")
    if not images.size:
        raise DataError(f"{subject} have shape {images.shape}: at least one image is needed")


def _check_labels(split: Split, classes: int, subject: str) -> None:
    labels = split.labels
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"{subject} are {labels.dtype} of shape {labels.shape}; int64 of shape (n,) is needed")
    if len(labels) != len(split.images):
        raise DataError(f"{subject}: found {len(labels)} for {len(split.images)} images; one for each is needed")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(f"{subject}: {labels[wrong[0]]} at index {wrong[0]}; only 0 .. {classes - 1} are allowed")


def _describe_values(images: np.ndarray) -> str:
    """The dtype and, for floating-point numbers, the range and the number of values that are not finite."""
    if images.dtype.kind != "f" or not images.size:
        return str(images.dtype)
    finite = images[np.isfinite(images)]
    span = f" in {finite.min():g} .. {finite.max():g}" if finite.size else ""
    return f"{images.dtype}{span}, {images.size - finite.size} of them not finite"
