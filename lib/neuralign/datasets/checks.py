"""The check of a dataset before it is written."""

import numpy as np

from neuralign.common.errors import join_names
from neuralign.datasets.dataset import ArrayDataset, DataError, Dataset, Split
from neuralign.datasets.reading.large_arrays import blocks

TYPES = (np.uint8, np.int8, np.int16, np.int32, np.int64, np.float32, np.float64)  # of arrays other than images


def check(dataset: Dataset, source: str) -> None:
    """Raise a DataError unless the arrays have the right types, shapes and values, as `dataset.py` says.

    Of images every class has to occur in train. `source` says in the message where the data comes from.
    """
    if repeated := sorted({name for name in dataset.classes if dataset.classes.count(name) > 1}):
        raise DataError(f"{source}: class names must differ, but {join_names(repeated)} occurs more than once")
    if isinstance(dataset, ArrayDataset):
        _check_arrays(dataset, source)
    else:
        _check_labelled_images(dataset, source)


def _check_arrays(dataset: ArrayDataset, source: str) -> None:
    if not dataset.classes:
        raise DataError(f"{source}: found no name of a class or of a number to predict; at least 1 is needed")
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        for part, array in (("inputs", split.inputs), ("targets", split.targets)):
            _check_numbers(array, f"{source}: {name} {part}")
        if len(split.inputs) != len(split.targets):
            count = f"found {len(split.targets)} for {len(split.inputs)} inputs"
            raise DataError(f"{source}: {name} targets: {count}; one for each is needed")
        _check_targets(split.targets, len(dataset.classes), f"{source}: {name} targets")
    for part in ("inputs", "targets"):
        train, test = getattr(dataset.train, part), getattr(dataset.test, part)
        if (train.dtype, train.shape[1:]) != (test.dtype, test.shape[1:]):
            kinds = f"{train.dtype} {train.shape[1:]} in train and {test.dtype} {test.shape[1:]} in test"
            raise DataError(f"{source}: {part} are {kinds}; they must be alike but for their number")


def _check_numbers(array: np.ndarray, subject: str) -> None:
    if array.dtype not in TYPES:
        allowed = ", ".join(np.dtype(kind).name for kind in TYPES)
        raise DataError(f"{subject} are {array.dtype}; allowed are {allowed}")
    if not array.size:
        raise DataError(f"{subject} have shape {array.shape}: at least one example is needed")
    for block in blocks(array) if array.dtype.kind == "f" else ():
        is_finite = np.isfinite(array[block])
        if not is_finite.all():
            row, *place = np.argwhere(~is_finite)[0].tolist()
            first = [block.start + row, *place]
            raise DataError(f"{subject}: found {array[tuple(first)]} at index {first}; numbers must be finite")


def _check_targets(targets: np.ndarray, names: int, subject: str) -> None:
    if targets.dtype.kind == "f":
        if targets.shape[1:] != (names,):
            raise DataError(f"{subject} have shape {targets.shape}; (n, {names}), a number for each name, is needed")
    elif targets.min() < 0 or targets.max() >= names:
        raise DataError(f"{subject} are in {targets.min()} .. {targets.max()}; only 0 .. {names - 1} are allowed")


def _check_labelled_images(dataset: Dataset, source: str) -> None:
    classes = dataset.classes
    if len(classes) < 2:
        raise DataError(f"{source}: found {len(classes)} class; at least 2 are needed")
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        _check_images(split.inputs, f"{source}: {name} images")
        _check_labels(split, len(classes), f"{source}: {name} labels")
    train_shape, test_shape = dataset.train.inputs.shape[1:], dataset.test.inputs.shape[1:]
    if train_shape != test_shape:
        shapes = f"train images have shape {train_shape}, test images {test_shape}"
        raise DataError(f"{source}: {shapes} (channels, height, width); they must be the same")
    if constant := [c for c, plane in enumerate(np.moveaxis(dataset.train.inputs, 1, 0)) if plane.min() == plane.max()]:
        raise DataError(
            f"{source}: channel {constant[0]} of the train images has one value only; it must vary, to be normalised"
        )
    present = set(np.unique(dataset.train.targets).tolist())
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
    labels = split.targets
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"{subject} are {labels.dtype} of shape {labels.shape}; int64 of shape (n,) is needed")
    if len(labels) != len(split.inputs):
        raise DataError(f"{subject}: found {len(labels)} for {len(split.inputs)} images; one for each is needed")
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
