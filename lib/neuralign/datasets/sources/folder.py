"""The user's own images, as files in one folder for each class."""

from itertools import groupby
from pathlib import Path

import numpy as np

from neuralign.config.options import Side, Text
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading.locations import visible_paths
from neuralign.datasets.reading.pictures import SUFFIXES, stack_images


def folder(cache: Path, *, path: Text, size: Side | None = None) -> Dataset:
    """Images (n, 3 or 1, h, w) of `train/<class>/<image>` and `test/<class>/<image>`, one of each class in turn.

    So the first of them, which alignments may look at alone, are of all classes. The classes are the folders of train.
    There is one channel if all images are greyscale, else three. Hidden files are skipped. Any other file that is no
    image is an error: skipping it silently could change the data.

    Args:
        path: The folder that holds `train` and `test`.
        size: Height and width in pixels to which every image is resized; null: all must have the same size.
    """
    root = Path(path)
    files_of = {split: _list_image_files(root / split) for split in ("train", "test")}
    classes = [p.name for p in visible_paths(root / "train", "*")]
    in_train, in_test = ({file.parent.name for file in files} for files in files_of.values())
    if unknown := sorted(in_test - set(classes)):
        raise DataError(
            f"{root / 'test'}: class {unknown[0]} has no folder in train; train and test must have the same classes"
        )
    if absent := sorted(in_train - in_test):
        raise DataError(f"{root / 'test'}: no image of class {absent[0]}, which has a folder in train")
    label_of = {name: i for i, name in enumerate(classes)}
    stacks = {
        split: stack_images(((str(file), file) for file in files), len(files), size, cache)
        for split, files in files_of.items()
    }
    channels = 3 if any(coloured for _, coloured in stacks.values()) else 1
    train, test = (
        Split(images[:, :channels], np.array([label_of[file.parent.name] for file in files_of[split]], np.int64))
        for split, (images, _) in stacks.items()
    )
    return Dataset(train, test, tuple(classes))


def _list_image_files(split: Path) -> list[Path]:
    """The image files of the class folders: the first of each class by name, the second, ...; others are refused."""
    if not split.is_dir():
        raise DataError(f"{split}: no such folder; train/<class>/<image> and test/<class>/<image> are needed")
    if stray := [p for p in visible_paths(split, "*") if not p.is_dir()]:
        raise DataError(f"{stray[0]}: only class folders are allowed here")
    files = sorted(visible_paths(split, "*/*"), key=lambda p: (p.parent.name, p.name))
    ranks = [rank for _, own in groupby(files, key=lambda p: p.parent) for rank, _ in enumerate(own)]
    files = [file for _, _, file in sorted(zip(ranks, range(len(files)), files, strict=True))]
    if others := [p for p in files if p.suffix.lower() not in SUFFIXES or not p.is_file()]:
        raise DataError(f"{others[0]}: only image files are allowed here ({' '.join(SUFFIXES)})")
    return files
