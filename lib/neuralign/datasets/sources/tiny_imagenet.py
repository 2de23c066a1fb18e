"""Tiny ImageNet (Le & Yang 2015) from its official zip archive."""

import zlib
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from neuralign.config.options import Address, Checksum
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading.downloads import fetch_verified
from neuralign.datasets.reading.pictures import stack_images


def tiny_imagenet(cache: Path, *, url: Address, checksum: Checksum) -> Dataset:
    """Images (n, 3, 64, 64); the official validation split is the test split.

    Classes are WordNet ids in sorted order. Images are sorted by class, then by file name, as by torchvision's
    ImageFolder. Greyscale JPEGs become RGB.

    Args:
        url: Address or path of the archive.
        checksum: Digest of the archive; another file is refused.
    """
    path = fetch_verified(url, checksum, cache)
    try:
        with ZipFile(path) as archive:
            train, test = _list_train_members(archive), _list_validation_members(archive, str(path))
            classes = sorted({wnid for wnid, _ in train})
            if unknown := sorted({wnid for wnid, _ in test} - set(classes)):
                raise DataError(f"{path}: validation images of class {unknown[0]}, which has no training images")
            splits = [_read_split(archive, members, classes, cache) for members in (train, test)]
            return Dataset(splits[0], splits[1], tuple(classes))
    except (BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path}: not the zip archive of Tiny ImageNet, or damaged: {error}") from error


def _list_train_members(archive: ZipFile) -> list[tuple[str, str]]:
    """(class, member) of train/<wnid>/images/<file>, sorted."""
    members = [(name.split("/"), name) for name in archive.namelist()]
    return sorted((p[2], name) for p, name in members if len(p) == 5 and p[1] == "train" and p[3] == "images" and p[4])


def _list_validation_members(archive: ZipFile, source: str) -> list[tuple[str, str]]:
    """(class, member) of val/images/<file>, sorted; classes from the lines `file<tab>class<tab>box` of
    val/val_annotations.txt."""
    members = {tuple(name.split("/")[1:]): name for name in archive.namelist() if not name.endswith("/")}
    table = members.get(("val", "val_annotations.txt"))
    if table is None:
        raise DataError(f"{source}: has no member val/val_annotations.txt; the archive of Tiny ImageNet is needed")
    rows = [line.split("\t") for line in archive.read(table).decode().splitlines() if line.strip()]
    classes = {row[0]: row[1] for row in rows if len(row) > 1}
    files = {parts[2]: name for parts, name in members.items() if parts[:2] == ("val", "images") and len(parts) == 3}
    if mismatched := sorted(classes.keys() ^ files.keys()):
        raise DataError(
            f"{source}: val/images and val/val_annotations.txt must have the same files; only one has {mismatched[0]}"
        )
    return sorted((wnid, files[file]) for file, wnid in classes.items())


def _read_split(archive: ZipFile, members: list[tuple[str, str]], classes: list[str], folder: Path) -> Split:
    """The images and labels of (class, member) pairs; `folder` as in `stack_images`."""
    files = ((f"{archive.filename}: {name}", BytesIO(archive.read(name))) for _, name in members)
    images, _ = stack_images(files, len(members), None, folder)
    label_of = {wnid: i for i, wnid in enumerate(classes)}
    return Split(images, np.array([label_of[wnid] for wnid, _ in members], np.int64))
