"""Images in the format of MNIST: four gzipped IDX files, as those of MNIST, Fashion-MNIST and KMNIST."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from neuralign.config.options import Address, Checksum
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading.downloads import fetch_verified

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(
    cache: Path,
    *,
    url: Address,
    train_images: Checksum,
    train_labels: Checksum,
    test_images: Checksum,
    test_labels: Checksum,
) -> Dataset:
    """Greyscale images (n, 1, h, w) in file order, with their labels; the classes are named by their numbers.

    Args:
        url: Address or path of the folder with the files `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`,
            `t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz`.
        train_images: Digest of the file with the training images; another file is refused, as with the other files.
        train_labels: Digest of the file with their labels.
        test_images: Digest of the file with the test images.
        test_labels: Digest of the file with their labels.
    """
    checksums = (train_images, train_labels, test_images, test_labels)
    files = [
        fetch_verified(f"{url.rstrip('/')}/{name}-ubyte.gz", checksum, cache)
        for name, checksum in zip(FILES, checksums, strict=True)
    ]
    train, test = _split(*files[:2]), _split(*files[2:])
    return Dataset(train, test, tuple(str(i) for i in range(int(train.targets.max(initial=-1)) + 1)))


def _split(images: Path, labels: Path) -> Split:
    """The images and labels in two files, which must have equally many."""
    pixels, numbers = _read(images, 3)[:, None], _read(labels, 1).astype(np.int64)
    if len(pixels) != len(numbers):
        raise DataError(f"{labels}: found {len(numbers)} labels for the {len(pixels)} images in {images.name}")
    return Split(pixels, numbers)


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in a gzipped IDX file: two zeros, 8 for uint8, the number of dimensions, their sizes, the values.

    Sizes are big-endian integers of four bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a gzipped IDX file: {error}") from None
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise DataError(
            f"{path}: begins with {content[:4].hex()}; an IDX file of uint8 in {dimensions} dimensions is needed"
        )
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
    if len(content) - header != shape.prod():
        raise DataError(f"{path}: has {len(content) - header} values; its header says {' x '.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
