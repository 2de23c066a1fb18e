"""A dataset of one's own as image files in class folders."""

from pathlib import Path

import numpy as np

from neuralign.config.options import Side, Text
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading.locations import visible
from neuralign.datasets.reading.pictures import SUFFIXES, stack


def folder(cache: Path, *, path: Text, size: Side | None = None) -> Dataset:
    """Images (n, 3 or 1, h, w) of `train/<class>/<image>` and `test/<class>/<image>`, by class, then by file name.

    The classes are the folders of train. If all images are greyscale there is one channel, else three. Hidden files
    are skipped; any other file that is no image is an error, because a file left out in silence would change the data.

    Args:
        path: The folder that holds `train` and `test`.
        size: Height and width in pixels to which every image is resized; null: all must have one size already.
    """
    root = Path(path)
    found = {split: _files(root / split) for split in ("train", "test")}
    classes = [p.name for p in visible(root / "train", "*")]
    trained, tested = ({file.parent.name for file in files} for files in found.values())
    if unknown := sorted(tested - set(classes)):
        raise DataError(f"{root / 'test'}: class {unknown[0]} has no folder in train")
    if absent := sorted(trained - tested):
        raise DataError(f"{root / 'test'}: no image of class {absent[0]}, which has a folder in train")
    label = {name: i for i, name in enumerate(classes)}
    stacks = {s: stack(((str(file), file) for file in files), len(files), size) for s, files in found.items()}
    channels = 3 if any(coloured for _, coloured in stacks.values()) else 1
    train, test = (
        Split(images[:, :channels], np.array([label[file.parent.name] for file in found[split]], np.int64))
        for split, (images, _) in stacks.items()
    )
    return Dataset(train, test, tuple(classes))


def _files(split: Path) -> list[Path]:
    """The image files of the class folders, sorted by class and name; anything else is refused."""
    if not split.is_dir():
        raise DataError(f"{split}: no such folder; train/<class>/<image> and test/<class>/<image> are needed")
    if stray := [p for p in visible(split, "*") if not p.is_dir()]:
        raise DataError(f"{stray[0]}: only class folders are allowed here")
    files = sorted(visible(split, "*/*"), key=lambda p: (p.parent.name, p.name))
    if odd := [p for p in files if p.suffix.lower() not in SUFFIXES or not p.is_file()]:
        raise DataError(f"{odd[0]}: only image files are allowed here ({' '.join(SUFFIXES)})")
    return files
