"""Archives that must be refused when they are fetched, with the right checksum unless it says otherwise.

What comes over a network, cut off, replaced or without end, is in test_data.py, for it needs a server.
"""

import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from hostile import FETCHING, Case, Trap, fetch, flipped
from toy_data import cifar10, mirror, pixels, python3, sha256, tar_gz, tiny, zipped

from neuralign.datasets.reading import archives
from neuralign.datasets.reading.pickles import unpickled

# ---- archives


def archived(use: str, blob: bytes, folder: Path, **options: Any) -> None:
    """Fetch from an archive of this content; nothing but the archive may lie in the folder afterwards."""
    try:
        fetch({"use": use, **options, **mirror(folder, blob)}, folder)
    finally:
        assert [p.name for p in folder.iterdir()] == ["mirror.bin"], "nothing is unpacked or executed"


def spoilt(blob: bytes, folder: Path) -> None:
    """An archive whose content is not that of the checksum."""
    entry = {"use": "cifar", "classes": 10} | mirror(folder, blob)
    fetch(entry | {"checksum": sha256(cifar10())}, folder)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member of a tar that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_special(mode: int) -> bytes:
    """A zip with a member of this file mode."""
    info = zipfile.ZipInfo("special")
    info.external_attr = mode << 16
    return zipped({info: b"x"})  # type: ignore[dict-item]


TARS = {
    "a path out of the folder": (tar_gz({"../evil": b"x"}), "member ../evil points outside the archive"),
    "a path from the root": (tar_gz({"/etc/evil": b"x"}), "member /etc/evil points outside"),
    "a path with backslashes": (tar_gz({"a\\..\\b": b"x"}), "member a\\..\\b points outside"),
    "a symbolic link": (tar_gz({"a": special("train", tarfile.SYMTYPE, "/etc/passwd")}), "member train is a link"),
    "a hard link": (tar_gz({"a": special("train", tarfile.LNKTYPE, "meta")}), "member train is a link"),
    "a pipe": (tar_gz({"a": special("train", tarfile.FIFOTYPE)}), "train is a link or another special file"),
    "a device": (tar_gz({"a": special("train", tarfile.CHRTYPE)}), "train is a link or another special file"),
    "two of a name": (tar_gz({"a/train": b"x", "b/train": b"y"}), "two members are called train"),
    "escape codes in a name": (tar_gz({"../\x1b[2J": b"x"}), "member '../\\x1b[2J' points outside"),
    "another archive": (cifar10(), "no member train, test, meta; is this the archive the entry means?"),
    "cut off": (cifar10()[:-2000], "the archive is damaged or of another kind"),
    "no archive": (b"no archive at all", "the archive is damaged or of another kind"),
    "empty": (b"", "mirror.bin: "),
}
LINK, PIPE, DEVICE = 0o120777, 0o010644, 0o020644
ZIPS = {
    "a path out of the folder": (zipped({"../evil": b"x"}), "member ../evil points outside the archive"),
    "a path from the root": (zipped({"/a": b"x"}), "member /a points outside"),
    "a path with backslashes": (zipped({"a\\..\\b": b"x"}), "points outside"),
    "a symbolic link": (zip_special(LINK), "member special is a link"),
    "a pipe": (zip_special(PIPE), "member special is a link or another special file"),
    "a device": (zip_special(DEVICE), "member special is a link or another special file"),
    "cut off": (tiny()[:-500], "the archive is damaged or of another kind"),
    "no archive": (b"no archive at all", "the archive is damaged or of another kind"),
    "encrypted": (tiny().replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"), "is encrypted"),
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


def tar_bomb(members: dict[str, bytes], folder: Path) -> None:
    """A tar of more than the limit, here a small one."""
    (folder / "bomb").write_bytes(tar_gz(members))
    archives.tar_members(folder / "bomb", ["0"], limit=200_000)


def zip_bomb(blob: bytes, folder: Path) -> None:
    """The same as zip."""
    (folder / "bomb").write_bytes(blob)
    with archives.zip_members(folder / "bomb", limit=200_000) as archive:
        archives.zip_member(archive, "a")


def crowd(read: Callable[[Path], Any], blob: bytes, folder: Path) -> None:
    """An archive of more members than are allowed, here two."""
    (folder / "crowd").write_bytes(blob)
    with mock.patch.object(archives, "MEMBERS", 2):
        read(folder / "crowd")


def _opened(path: Path) -> None:
    with archives.zip_members(path):
        pass


MANY = {"a": b"", "b": b"", "c": b""}
LIE = zipped({"a": bytes(150_000)}).replace((150_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
BOMBS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a tar that claims much", partial(tar_bomb, {"0": bytes(300_000)}), "member 0 claims 300000 bytes, more than"),
    (
        "a tar that unpacks to much",
        partial(tar_bomb, {str(i): bytes(90_000) for i in range(3)}),
        "unpacks to more than 200000 bytes",
    ),
    (
        "a zip that claims much",
        partial(zip_bomb, zipped({"a": bytes(150_000), "b": bytes(150_000)})),
        "the members claim more than 200000 bytes",
    ),
    ("a zip that unpacks to more than it claims", partial(zip_bomb, LIE), "Bad CRC-32 for file 'a'"),
    (
        "a tar of many members",
        partial(crowd, lambda p: archives.tar_members(p, ["a"]), tar_gz(MANY)),
        "more than 2 members",
    ),
    ("a zip of many members", partial(crowd, _opened, zipped(MANY)), "more than 2 members"),
]


# ---- pickles, of which only plain values and arrays are taken


def trapped(protocol: int, folder: Path) -> None:
    """A CIFAR archive whose batches would make a folder."""
    blob = tar_gz({n: pickle.dumps({"data": Trap()}, protocol) for n in ("train", "test", "meta")})
    try:
        archived("cifar", blob, folder, classes=100)
    finally:
        assert not Path("executed").exists()


def batch(change: dict[str, Any], folder: Path) -> None:
    """A CIFAR-100 archive whose members hold this."""
    value = {"data": pixels(2, 3072), "fine_labels": [0, 1], "fine_label_names": [f"n{i}" for i in range(100)]} | change
    archived("cifar", tar_gz({name: python3(value) for name in ("train", "test", "meta")}), folder, classes=100)


PICKLES = {
    "cut off": (pickle.dumps({"a": 1})[:-3], "x: not a pickle of plain values and numpy arrays"),
    "of a list": (pickle.dumps([1]), "x: pickles a list, only a dict is allowed"),
    "that decodes with another codec": (
        b"\x80\x02c_codecs\nencode\n(U\x01aU\x03ziptR.",
        "x: not a pickle",
        "bytes in zip",
    ),
    "of nothing": (b"", "x: not a pickle"),
    "of an attribute": (b"cnumpy\nndarray.ctypes\n.", "numpy.ndarray.ctypes is not allowed"),
    "of a huge text": (b"\x8d" + (2**62).to_bytes(8, "little") + b"x.", "x: not a pickle"),
}
BATCHES: list[tuple[str, dict[str, Any], str]] = [
    ("rows of another length", {"data": pixels(2, 3071)}, "train: 'data' is no uint8 array of shape (n, 3072)"),
    ("rows as a list", {"data": [[0] * 3072]}, "train: 'data' is no uint8 array"),
    ("labels that are no integers", {"fine_labels": [0.5, 1.0]}, "train: 'fine_labels' is no list of integers"),
    ("labels out of range", {"fine_labels": [0, 100]}, "train labels: 100 at index 1; only 0 .. 99 are allowed"),
    ("another number of labels", {"fine_labels": [0]}, "train labels: 1 for 2 images"),
    ("too few class names", {"fine_label_names": ["a"]}, "meta holds no list of 100 names"),
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
    *[
        Case(f"tar: {n}", FETCHING, partial(archived, "cifar", b, classes=100), ("mirror.bin: ", *w))
        for n, (b, *w) in TARS.items()
    ],
    *[
        Case(f"zip: {n}", FETCHING, partial(archived, "tiny_imagenet", b), ("mirror.bin: ", *w))
        for n, (b, *w) in ZIPS.items()
    ],
    *[Case(f"bomb: {name}", FETCHING, act, (words,)) for name, act, words in BOMBS],
    *[
        Case(
            f"pickle: that makes a folder, protocol {i}",
            FETCHING,
            partial(trapped, i),
            ("train: ", "posix.mkdir is not allowed"),
        )
        for i in range(pickle.HIGHEST_PROTOCOL + 1)
    ],
    *[
        Case(f"pickle: {n}", FETCHING, lambda folder, b=b: unpickled(b, "x"), tuple(w))
        for n, (b, *w) in PICKLES.items()
    ],
    *[
        Case(f"cifar: {name}", FETCHING, partial(batch, change), ("mirror.bin: ", words))
        for name, change, words in BATCHES
    ],
]
