"""The handwritten digits that scikit-learn contains: data without a download."""

from pathlib import Path

import numpy as np
from PIL import Image

from neuralign.config.options import OpenFraction, Seed, Side
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.splits import stratified_split


def digits(cache: Path, *, size: Side = 16, test_fraction: OpenFraction = 0.2, seed: Seed = 0) -> Dataset:
    """1,797 greyscale images (n, 1, size, size), 8x8 originals resized by PIL's bilinear filter; a stratified split.

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998), its test part. The grey values
    0 .. 16 become 0 .. 255. Both splits keep the file order.

    Args:
        size: Height and width of the images in pixels.
        test_fraction: Share of each class, chosen at random, that is the test split.
        seed: Seed of the split.
    """
    from sklearn.datasets import load_digits  # a second of imports that no other dataset needs

    source = load_digits()
    grey = np.rint(source.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
    enlarged = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in grey]
    images = np.stack([np.asarray(image) for image in enlarged])[:, None]  # (n, 1, size, size)
    labels = source.target.astype(np.int64)
    is_test = stratified_split(labels, test_fraction, seed)
    return Dataset(
        Split(images[~is_test], labels[~is_test]),
        Split(images[is_test], labels[is_test]),
        tuple(str(d) for d in range(10)),
    )
