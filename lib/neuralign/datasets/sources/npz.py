"""The user's own images, as arrays in a .npz file."""

import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from neuralign.common.memory import fits
from neuralign.config.options import Text
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading import large_arrays

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
NEEDED = ("x_train", "y_train", "x_test", "y_test")


def npz(cache: Path, *, path: Text, layout: Literal["auto", "nchw", "nhwc"] = "auto") -> Dataset:
    """Images (n, c, h, w) from the uint8 arrays x_train and x_test, with integer labels y_train and y_test.

    Arrays with three axes are greyscale images (n, h, w). The optional array `classes` has a name for each label;
    without it the names are 0, 1, ... up to the largest label.

    Args:
        path: The file. Its classes should be mixed, for alignments may look at the first images alone.
        layout: Which of four axes is that of the channels: the second or the last. With `auto` it is the one of length
            1 or 3; a file in which both or neither have such a length is refused.
    """
    arrays = _read_arrays(Path(path), cache)
    splits = [
        Split(_to_nchw(arrays[f"x_{s}"], layout, f"{path}: x_{s}"), _to_int64(arrays[f"y_{s}"], f"{path}: y_{s}"))
        for s in ("train", "test")
    ]
    images = len(splits[0].targets)
    count = 1 + max((int(split.targets.max()) for split in splits if split.targets.size), default=-1)
    if count > images:
        raise DataError(f"{path}: found label {count - 1} and {images} train images; every class must occur in train")
    names = arrays.get("classes", np.arange(count))
    if names.ndim != 1:
        raise DataError(f"{path}: classes has shape {names.shape}; (n,), one name for each label, is needed")
    if names.dtype.kind == "S":  # bytes, as old files have them
        names = np.char.decode(names, "utf-8")
    return Dataset(splits[0], splits[1], tuple(str(name) for name in names.tolist()))


def _read_arrays(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """{name: array}; those that do not fit into memory are kept in `folder`."""
    try:
        # opened as a zip archive too, because np.load would also read files of other kinds
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as file:
            if missing := [name for name in NEEDED if name not in file]:
                raise DataError(f"{path}: has no array {', '.join(missing)}; found {', '.join(file) or 'none'}")
            large = {
                member.filename.removesuffix(".npy"): _read_large(archive, member, folder)
                for member in archive.infolist()
                if member.filename.removesuffix(".npy") in NEEDED and not fits(member.file_size)
            }
            return {name: file[name] for name in (*NEEDED, "classes") if name in file and name not in large} | large
    except DataError:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz file of plain arrays: {error}") from error


def _read_large(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> np.ndarray:
    """The array of a member of the archive, read block by block. Raises ValueError as `np.load` does."""
    with archive.open(member) as file:
        if (version := np.lib.format.read_magic(file)) not in HEADERS:
            raise ValueError(f"{member.filename} has version {version} of the format; allowed are 1.0 and 2.0")
        shape, is_fortran, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} has objects; only plain numbers are allowed")
        array = large_arrays.empty(shape[::-1] if is_fortran else shape, dtype, folder)
        target = array.reshape(-1).view(np.uint8).data
        while target:
            if not (block := file.read(min(large_arrays.BLOCK, len(target)))):
                raise ValueError(f"{member.filename} ends {len(target)} bytes too early")
            target[: len(block)], target = block, target[len(block) :]
        if file.read(1):  # at the end of the member its checksum is verified
            raise ValueError(f"{member.filename} is longer than its shape {shape} says")
    return array.T if is_fortran else array


def _to_nchw(images: np.ndarray, layout: str, subject: str) -> np.ndarray:
    """The images with channels as second axis; a view, not a copy."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DataError(f"{subject} has shape {images.shape}; three or four axes are allowed")
    if layout == "auto":
        maybe_nchw, maybe_nhwc = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if maybe_nchw == maybe_nhwc:
            raise DataError(
                f"{subject} has shape {images.shape}: the axis of the channels is ambiguous; set layout: nchw or nhwc"
            )
        layout = "nchw" if maybe_nchw else "nhwc"
    return images if layout == "nchw" else images.transpose(0, 3, 1, 2)


def _to_int64(labels: np.ndarray, subject: str) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise DataError(f"{subject} is {labels.dtype}; only integers are allowed")
    return labels.astype(np.int64)
