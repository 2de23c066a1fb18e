"""Images of one bright bar, made by a random generator: a dataset without a download."""

from pathlib import Path

import numpy as np

from neuralign.config.options import Count, Seed, Side
from neuralign.datasets.dataset import Dataset, Split


def bars(cache: Path, *, side: Side = 8, count: Count = 600, seed: Seed = 0) -> Dataset:
    """Noisy greyscale images (n, 1, side, side) with a bar that is horizontal or vertical, the two classes.

    Args:
        side: Height and width of the images in pixels.
        count: Number of images, a third of which are for tests.
        seed: Seed of bars and noise.
    """
    draws = np.random.RandomState(seed)  # numpy guarantees its stream; newer generators may change between versions
    images = draws.randint(0, 100, (count, 1, side, side)).astype(np.uint8)
    labels, places = draws.permutation(count).astype(np.int64) % 2, draws.randint(0, side, count)
    for image, label, place in zip(images, labels, places, strict=True):
        image[0].swapaxes(0, label)[place] = 255
    third = count // 3
    train, test = slice(third, None), slice(0, third)
    return Dataset(
        Split(images[train], labels[train]), Split(images[test], labels[test]), classes=("horizontal", "vertical")
    )
