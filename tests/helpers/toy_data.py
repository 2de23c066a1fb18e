"""Small archives, folders and arrays in the layouts that the data plug-ins read."""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def sha256(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as byte strings, as Python 2 did in the official archives."""

    def raw(self: Any, value: str | bytes) -> None:
        blob = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(blob).to_bytes(4, "little") + blob)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: raw, bytes: raw}  # type: ignore[assignment]


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python3(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def tar_gz(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    zipped = gzip.GzipFile(fileobj=file, mode="wb", mtime=0)  # without a time, so that the bytes are always the same
    with zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def cifar10(pickled=python3) -> bytes:
    """Two images in each of five train batches and a test batch of ten; batch i has labels 2i, 2i + 1."""
    top, rows = "cifar-10-batches-py", pixels(20, 3072)
    folder_entry = tarfile.TarInfo(top)
    folder_entry.type = tarfile.DIRTYPE
    members: dict[str, bytes | tarfile.TarInfo] = {top: folder_entry, f"{top}/readme.html": b"<html>"}
    members[f"{top}/batches.meta"] = pickled({"label_names": [f"name{i}" for i in range(10)], "num_vis": 3072})
    for i in reversed(range(5)):  # because the order of the members must not matter
        batch = {"data": rows[2 * i : 2 * i + 2], "labels": [2 * i, 2 * i + 1], "batch_label": "x"}
        members[f"{top}/data_batch_{i + 1}"] = pickled(batch)
    members[f"{top}/test_batch"] = pickled({"data": rows[10:], "labels": list(range(10))[::-1]})
    return tar_gz(members)


def cifar100() -> bytes:
    top = "cifar-100-python"
    fine, coarse = list(range(100)), [0] * 100
    part = {"fine_labels": fine, "coarse_labels": coarse, "data": pixels(100, 3072)}
    meta = {"fine_label_names": [f"fine{i}" for i in fine], "coarse_label_names": ["coarse"]}
    return tar_gz({f"{top}/{name}": python2(value) for name, value in dict(meta=meta, test=part, train=part).items()})


def jpeg(seed: int, grey: bool = False) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(64, 64, seed=seed) if grey else pixels(64, 64, 3, seed=seed)).save(file, "JPEG")
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tiny(**changed: bytes) -> bytes:
    """Two classes of three images, one of them greyscale; two validation images, annotated in reverse class order."""
    members = {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\tgoldfish\n", "test/images/test_0.JPEG": jpeg(99)}
    for c, wnid in enumerate(("n02", "n01")):
        members[f"train/{wnid}/{wnid}_boxes.txt"] = b""
        for i, number in enumerate((0, 10, 2)):
            members[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(3 * c + i, grey=number == 10)
    members |= {"val/images/val_0.JPEG": jpeg(10), "val/images/val_1.JPEG": jpeg(11)}
    members["val/val_annotations.txt"] = b"val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\n"
    members |= {name.replace("__", "/"): content for name, content in changed.items()}
    return zipped({"tiny-imagenet-200/": b""} | {f"tiny-imagenet-200/{name}": c for name, c in members.items()})


def mirror(tmp_path: Path, blob: bytes) -> dict[str, str]:
    """`url` and `checksum` of a local archive with this content."""
    path = tmp_path / "mirror.bin"
    path.write_bytes(blob)
    return {"url": str(path), "checksum": sha256(blob)}


def tree(root: Path, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> dict[str, str]:
    """Classes cat and dog, two train images and one test image each, and hidden files as file managers make them."""
    for i, name in enumerate(("train/dog/a", "train/dog/b", "train/cat/a", "train/cat/b", "test/cat/a", "test/dog/a")):
        file = root / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size[1], size[0], 3, seed=i)).convert(mode).save(file)
    (root / "train/.DS_Store").touch()
    (root / "train/cat/.DS_Store").touch()
    return {"path": str(root)}


def arrays(**changed: np.ndarray | None) -> dict[str, np.ndarray]:
    """The arrays of a valid .npz file, some of them replaced, or left out if they are None."""
    valid = {"x_train": pixels(4, 8, 8, 3), "y_train": np.array([0, 1, 0, 1]), "x_test": pixels(2, 8, 8, 3)}
    replaced = valid | {"y_test": np.array([1, 0], np.uint8)} | changed
    return {name: array for name, array in replaced.items() if array is not None}
