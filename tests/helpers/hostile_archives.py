"""Archives that must be refused when they are fetched, with the right checksum unless the case says otherwise.

Downloads that break off are in test_data.py, which has a server.
"""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

from hostile import FETCHING, Case, Trap, fetch, flipped
from toy_data import cifar10, mirror, pixels, python3, sha256, tar_gz, tiny


def fetch_archive(use: str, blob: bytes, folder: Path, **options: Any) -> None:
    """Fetch from an archive with this content. Afterwards there must be no other file in the folder."""
    try:
        fetch({"use": use, **options, **mirror(folder, blob)}, folder)
    finally:
        assert [p.name for p in folder.iterdir()] == ["mirror.bin"], "nothing is unpacked"


def fetch_with_wrong_checksum(blob: bytes, folder: Path) -> None:
    """Fetch from an archive with this content and the checksum of another one."""
    entry = {"use": "cifar", "classes": 10} | mirror(folder, blob)
    try:
        fetch(entry | {"checksum": sha256(cifar10())}, folder)
    finally:
        assert not Path("executed").exists(), "nothing is unpickled before its checksum is verified"


TRAPPED = tar_gz({name: pickle.dumps(Trap()) for name in ("data_batch_1", "test_batch", "batches.meta")})
TARS = {
    "another archive": (cifar10(), "not the archive of CIFAR-100, python version: it has no member train, test, meta"),
    "cut off": (cifar10()[:-2000], "not the archive of CIFAR-100, python version: "),
    "no archive": (b"no archive at all", "not the archive of CIFAR-100, python version: "),
    "empty": (b"", "not the archive of CIFAR-100, python version: empty file"),
}
ZIPS = {
    "cut off": (tiny()[:-500], "not the zip archive of Tiny ImageNet, or damaged: "),
    "no archive": (b"no archive at all", "not the zip archive of Tiny ImageNet, or damaged: "),
    "images that the table does not list": (
        tiny(**{"val__val_annotations.txt": b"val_0.JPEG\tn02\n"}),
        "val/images and val/val_annotations.txt must have the same files; only one has val_1.JPEG",
    ),
    "a class without training images": (
        tiny(**{"val__val_annotations.txt": b"val_0.JPEG\tn02\nval_1.JPEG\tn03\n"}),
        "validation images of class n03, which has no training images",
    ),
    "a file that is no image": (
        tiny(**{"train__n01__images__n01_5.JPEG": b"no jpeg"}),
        "tiny-imagenet-200/train/n01/images/n01_5.JPEG: not a readable image",
    ),
}


def fetch_batch(change: dict[str, Any], folder: Path) -> None:
    """Fetch from an archive of CIFAR-100 whose members have this content."""
    value = {"data": pixels(2, 3072), "fine_labels": [0, 1], "fine_label_names": [f"n{i}" for i in range(100)]} | change
    fetch_archive("cifar", tar_gz({name: python3(value) for name in ("train", "test", "meta")}), folder, classes=100)


BATCHES: list[tuple[str, dict[str, Any], str]] = [
    ("rows of another length", {"data": pixels(2, 3071)}, "cannot reshape array of size 6142 into shape (3,32,32)"),
    ("rows as a list", {"data": [[0] * 3072]}, "train images are int64; only uint8 pixels"),
    ("labels that are no integers", {"fine_labels": [0.5, 1.0]}, "train labels are float64 of shape (2,); int64"),
    ("labels out of range", {"fine_labels": [0, 100]}, "train labels: 100 at index 1; only 0 .. 99 are allowed"),
    ("another number of labels", {"fine_labels": [0]}, "train labels: found 1 for 2 images"),
    ("too few class names", {"fine_label_names": ["a"]}, "found 1 class; at least 2 are needed"),
]


CASES = [
    Case(
        "archive: truncated",
        FETCHING,
        partial(fetch_with_wrong_checksum, cifar10()[:-100]),
        ("expected sha256:", "found sha256:"),
    ),
    Case(
        "archive: one bit changed",
        FETCHING,
        partial(fetch_with_wrong_checksum, flipped(cifar10(), 999)),
        ("expected sha256:", " bytes)"),
    ),
    Case(
        "archive: of pickles that run code",
        FETCHING,
        partial(fetch_with_wrong_checksum, TRAPPED),
        ("expected sha256:", " bytes)"),
    ),
    *[
        Case(f"tar: {n}", FETCHING, partial(fetch_archive, "cifar", b, classes=100), ("mirror.bin: ", *w))
        for n, (b, *w) in TARS.items()
    ],
    *[
        Case(f"zip: {n}", FETCHING, partial(fetch_archive, "tiny_imagenet", b), ("mirror.bin: ", *w))
        for n, (b, *w) in ZIPS.items()
    ],
    *[
        Case(f"cifar: {name}", FETCHING, partial(fetch_batch, change), ("mirror.bin: ", words))
        for name, change, words in BATCHES
    ],
]
