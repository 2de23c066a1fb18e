"""Folders of images and .npz files that must be refused when they are read."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hostile import FETCHING, PLANNING, Case, Trap, fetch, flipped
from PIL import Image
from toy_data import arrays, jpeg, pixels, tree

from neuralign.datasets.checks import check
from neuralign.datasets.reading.locations import content_digest
from neuralign.datasets.sources.digits import digits

# ---- images


def png(bits: int, colour: int, side: int = 4) -> bytes:
    """A PNG of any depth and colour type, which PIL does not write."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    rows = b"".join(b"\0" + bytes(k % 251 for k in range(side * samples * bits // 8)) for _ in range(min(side, 8)))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as the content of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb(height: int = 4, width: int = 5) -> Image.Image:
    return Image.fromarray(pixels(height, width, 3))


def fetch_changed_folder(change: Callable[[Path], Any], folder: Path) -> None:
    """Fetch a folder of valid images after a change."""
    entry = {"use": "folder", **tree(folder / "pets")}
    change(folder / "pets")
    fetch(entry, folder)


def adding(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda pets: (pets / name).write_bytes(content)


FOLDERS: list[tuple[Any, ...]] = [
    ("a text", adding("train/cat/notes.txt", b"x"), "notes.txt: only image files are allowed here (.png .jpg"),
    ("a folder in a class", lambda p: (p / "train/cat/deep").mkdir(), "deep: only image files are allowed here"),
    ("a file beside the classes", adding("train/readme.md", b""), "readme.md: only class folders are allowed here"),
    ("a broken link", lambda p: (p / "train/cat/c.png").symlink_to("nowhere"), "c.png: only image files are allowed"),
    ("a pipe", lambda p: os.mkfifo(p / "train/cat/c.png"), "c.png: only image files are allowed here"),
    ("no image in it", adding("train/cat/c.png", b"no image"), "c.png: not a readable image"),
    ("an empty file", adding("train/cat/c.png", b""), "c.png: not a readable image"),
    ("a PNG cut off", adding("train/cat/c.png", encoded(rgb())[:60]), "c.png: not a readable image"),
    (
        "a JPEG cut off",
        adding("train/cat/c.jpg", jpeg(0)[:-300]),
        "c.jpg: not a readable image: image file is truncated",
    ),
    (
        "a PNG with a bit turned",
        adding("train/cat/c.png", flipped(encoded(rgb()), 60)),
        "c.png: not a readable image",
    ),
    (
        "transparent pixels",
        adding("train/cat/c.png", encoded(Image.fromarray(pixels(4, 5, 4)))),
        "has transparent pixels",
    ),
    (
        "a transparent palette",
        adding("train/cat/c.png", encoded(rgb().convert("P"), transparency=bytes(256))),
        "has transparent pixels; only opaque images are allowed",
    ),
    (
        "16 bits of grey",
        adding("train/cat/c.png", png(16, 0)),
        "found mode I;16; only 8-bit greyscale and colour",
    ),
    ("16 bits of colour", adding("train/cat/c.png", png(16, 2)), "c.png: found 16 bits a channel; only 8 are allowed"),
    ("16 bits of colour and alpha", adding("train/cat/c.png", png(16, 6)), "16 bits a channel; only 8 are allowed"),
    ("16 bits in a PPM", adding("train/cat/c.ppm", b"P6 4 4 65535\n" + bytes(96)), "16 bits a channel; only 8"),
    (
        "several frames",
        adding("train/cat/c.webp", encoded(rgb(), "WEBP", save_all=True, append_images=[rgb().rotate(90)])),
        "c.webp: has several frames; only one is allowed",
    ),
    ("a format that is not read", adding("train/cat/c.png", encoded(rgb(), "GIF")), "c.png: not a readable image"),
    (
        "another size",
        adding("train/dog/c.png", encoded(rgb(9, 9))),
        "c.png: 9x9 pixels, but the first image of the split has",
    ),
    (
        "a decompression bomb",
        adding("train/cat/c.png", png(8, 2, 30_000)),
        "c.png: not a readable image",
        "decompression bomb",
    ),
    ("a class only in test", lambda p: (p / "test/dog").rename(p / "test/cow"), "class cow has no folder in train"),
    (
        "a class not in test",
        lambda p: [(p / "train/ant").mkdir(), adding("train/ant/a.png", encoded(rgb()))(p)],
        "test: no image of class ant, which has a folder in train",
    ),
    (
        "a class without images",
        lambda p: (p / "train/ant").mkdir(),
        "no train image of class ant; every class must occur",
    ),
    (
        "no test folder",
        lambda p: (p / "test").rename(p / "val"),
        "test: no such folder; train/<class>/<image> and test/",
    ),
]


# ---- arrays


def fetch_changed_arrays(changed: dict[str, Any], folder: Path) -> None:
    """Fetch an .npz file of valid arrays, some of them replaced by those of `changed`."""
    np.savez(folder / "a.npz", **arrays(**changed))
    fetch({"use": "npz", "path": str(folder / "a.npz")}, folder)


def fetch_file(write: Callable[[Path], Any], folder: Path) -> None:
    """Fetch an .npz file that `write` writes."""
    write(folder / "a.npz")
    fetch({"use": "npz", "path": str(folder / "a.npz")}, folder)


ARRAYS: list[tuple[str, dict[str, Any], str]] = [
    ("pixels in 0 .. 1", {"x_train": pixels(4, 8, 8, 3) / 255}, "float64 in 0 .. 1, 0 of them not finite; only uint8"),
    ("NaN", {"x_train": np.full((4, 8, 8, 3), np.nan, np.float32)}, "train images are float32, 768 of them not finite"),
    ("infinite pixels", {"x_test": np.full((2, 8, 8, 3), np.inf)}, "test images are float64, 384 of them not finite"),
    ("pixels of eight bytes", {"x_train": pixels(4, 8, 8, 3).astype(np.int64)}, "train images are int64; only uint8"),
    ("objects", {"x_train": pixels(4, 8, 8, 3).astype(object)}, "Object arrays cannot be loaded"),
    ("objects that would run code", {"classes": np.array([Trap(), Trap()])}, "Object arrays cannot be loaded"),
    (
        "five axes",
        {"x_train": pixels(4, 8, 8, 3, 1)},
        "x_train has shape (4, 8, 8, 3, 1); three or four axes are allowed",
    ),
    ("other test images", {"x_test": pixels(2, 9, 9, 3)}, "train images have shape (3, 8, 8), test images (3, 9, 9)"),
    ("no images", {"x_test": pixels(0, 8, 8, 3), "y_test": np.zeros(0, int)}, "at least one image is needed"),
    (
        "one image",
        {"x_train": pixels(1, 8, 8, 3), "y_train": np.zeros(1, int)},
        "found label 1 and 1 train images; every class",
    ),
    ("black images", {"x_train": np.zeros((4, 8, 8, 3), np.uint8)}, "channel 0 of the train images has one value only"),
    (
        "fewer labels than images",
        {"y_train": np.array([0, 1, 0])},
        "train labels: found 3 for 4 images; one for each is needed",
    ),
    ("negative labels", {"y_train": np.array([0, -1, 0, 1])}, "train labels: -1 at index 1; only 0 .. 1 are allowed"),
    ("labels of 64 bits", {"y_test": np.array([2**64 - 1, 0], np.uint64)}, "test labels: -1 at index 0"),
    ("a class left out", {"y_train": np.array([0, 1, 0, 3])}, "no train image of class 2; every class must occur"),
    ("an absurd label", {"y_train": np.array([0, 1, 0, 10**12])}, "found label 1000000000000 and 4 train images"),
    ("fractions as labels", {"y_train": np.array([0.0, 1, 0, 1])}, "y_train is float64; only integers are allowed"),
    ("labels in a column", {"y_train": np.array([[0], [1], [0], [1]])}, "int64 of shape (4, 1); int64 of shape (n,)"),
    ("one class", {"y_train": np.zeros(4, int), "y_test": np.zeros(2, int)}, "found 1 class; at least 2 are needed"),
    ("a class name twice", {"classes": np.array(["a", "a"])}, "class names must differ, but a occurs more than once"),
    ("a name too many", {"classes": np.array(["a", "b", "c"])}, "no train image of class c; every class must occur"),
    (
        "names in a table",
        {"classes": np.array([["a", "b"]])},
        "classes has shape (1, 2); (n,), one name for each label, is needed",
    ),
    ("an array missing", {"y_test": None}, "has no array y_test; found x_train, y_train, x_test"),
]
NPZS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("cut off", lambda p: [np.savez(p, **arrays()), p.write_bytes(p.read_bytes()[:500])], "not a readable .npz file"),
    ("a text", lambda p: p.write_text("hello"), "not a readable .npz file"),
    ("an .npy file", lambda p: np.save(p.open("wb"), np.zeros(3)), "not a readable .npz file"),
    ("absent", lambda p: None, "No such file or directory"),
    ("a folder", lambda p: p.mkdir(), "not a "),
]


def absent(folder: Path) -> None:
    """Digest local data that does not exist."""
    content_digest({"use": "npz", "path": str(folder / "nowhere.npz")})


CASES = [
    Case("data that does not exist", PLANNING, absent, ("nowhere.npz: no such file or folder",)),
    Case(
        "digits: no image in the test split",
        FETCHING,
        lambda folder: check(digits(folder, test_fraction=1e-9), "digits"),
        ("digits: test images have shape (0, 1, 16, 16)",),
    ),
    *[
        Case(f"folder: {name}", FETCHING, partial(fetch_changed_folder, change), tuple(words))
        for name, change, *words in FOLDERS
    ],
    *[
        Case(f"npz: {name}", FETCHING, partial(fetch_changed_arrays, change), ("a.npz: ", words))
        for name, change, words in ARRAYS
    ],
    *[Case(f"npz: {name}", FETCHING, partial(fetch_file, write), ("a.npz: ", words)) for name, write, words in NPZS],
]
