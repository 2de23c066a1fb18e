"""Archives that must be refused when they are fetched, with the right checksum unless it says otherwise.

What comes over a network, cut off, replaced or without end, is in test_data.py, for it needs a server.
"""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

from hostile import FETCHING, Case, Trap, fetch, flipped
from toy_data import cifar10, mirror, pixels, python3, sha256, tar_gz, tiny


def archived(use: str, blob: bytes, folder: Path, **options: Any) -> None:
    """Fetch from an archive of this content; nothing but the archive may lie in the folder afterwards."""
    try:
        fetch({"use": use, **options, **mirror(folder, blob)}, folder)
    finally:
        assert [p.name for p in folder.iterdir()] == ["mirror.bin"], "nothing is unpacked"


def spoilt(blob: bytes, folder: Path) -> None:
    """An archive whose content is not that of the checksum."""
    entry = {"use": "cifar", "classes": 10} | mirror(folder, blob)
    try:
        fetch(entry | {"checksum": sha256(cifar10())}, folder)
    finally:
        assert not Path("executed").exists(), "nothing is unpickled before its checksum has passed"


TRAPPED = tar_gz({name: pickle.dumps(Trap()) for name in ("data_batch_1", "test_batch", "batches.meta")})
TARS = {
    "another archive": (cifar10(), "not the archive of CIFAR-100, python version: no member train, test, meta"),
    "cut off": (cifar10()[:-2000], "not the archive of CIFAR-100, python version: "),
    "no archive": (b"no archive at all", "not the archive of CIFAR-100, python version: "),
    "empty": (b"", "not the archive of CIFAR-100, python version: empty file"),
}
ZIPS = {
    "cut off": (tiny()[:-500], "not the zip archive of Tiny ImageNet, or damaged: "),
    "no archive": (b"no archive at all", "not the zip archive of Tiny ImageNet, or damaged: "),
    "images and their table disagree": (
        tiny(**{"val__val_annotations.txt": b"val_0.JPEG\tn02\n"}),
        "val/images and val/val_annotations.txt disagree on val_1.JPEG",
    ),
    "a class without training images": (
        tiny(**{"val__val_annotations.txt": b"val_0.JPEG\tn02\nval_1.JPEG\tn03\n"}),
        "validation images of class n03, which has no training images",
    ),
    "an image that is none": (
        tiny(**{"train__n01__images__n01_5.JPEG": b"no jpeg"}),
        "tiny-imagenet-200/train/n01/images/n01_5.JPEG: not a readable image",
    ),
}


def batch(change: dict[str, Any], folder: Path) -> None:
    """A CIFAR-100 archive whose members hold this."""
    value = {"data": pixels(2, 3072), "fine_labels": [0, 1], "fine_label_names": [f"n{i}" for i in range(100)]} | change
    archived("cifar", tar_gz({name: python3(value) for name in ("train", "test", "meta")}), folder, classes=100)


BATCHES: list[tuple[str, dict[str, Any], str]] = [
    ("rows of another length", {"data": pixels(2, 3071)}, "cannot reshape array of size 6142 into shape (3,32,32)"),
    ("rows as a list", {"data": [[0] * 3072]}, "train images are int64; only uint8 pixels"),
    ("labels that are no integers", {"fine_labels": [0.5, 1.0]}, "train labels are float64 of shape (2,); int64"),
    ("labels out of range", {"fine_labels": [0, 100]}, "train labels: 100 at index 1; only 0 .. 99 are allowed"),
    ("another number of labels", {"fine_labels": [0]}, "train labels: 1 for 2 images"),
    ("too few class names", {"fine_label_names": ["a"]}, "1 class, at least 2 are needed"),
]


CASES = [
    Case(
        "archive: cut off while it was fetched",
        FETCHING,
        partial(spoilt, cifar10()[:-100]),
        ("expected sha256:", "found sha256:"),
    ),
    Case(
        "archive: a bit turned",
        FETCHING,
        partial(spoilt, flipped(cifar10(), 999)),
        ("expected sha256:", "bytes received"),
    ),
    Case(
        "archive: of pickles that run code", FETCHING, partial(spoilt, TRAPPED), ("expected sha256:", "bytes received")
    ),
    *[
        Case(f"tar: {n}", FETCHING, partial(archived, "cifar", b, classes=100), ("mirror.bin: ", *w))
        for n, (b, *w) in TARS.items()
    ],
    *[
        Case(f"zip: {n}", FETCHING, partial(archived, "tiny_imagenet", b), ("mirror.bin: ", *w))
        for n, (b, *w) in ZIPS.items()
    ],
    *[
        Case(f"cifar: {name}", FETCHING, partial(batch, change), ("mirror.bin: ", words))
        for name, change, words in BATCHES
    ],
]
