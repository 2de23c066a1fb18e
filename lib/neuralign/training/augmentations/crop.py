"""Random crops of padded images."""

from neuralign.config.options import Fraction
from neuralign.training.augmentation import Batch, Motion


def crop(batch: Batch, *, pad: Fraction = 0.125) -> Motion:
    """Each image padded with black pixels and cropped to its old size at a uniformly random position.

    Args:
        pad: Width of the border as a fraction of the image's side; 0.125 is 4 pixels of 32, 8 of 64.
    """
    down, right = (batch.integers(-border, border) for border in (round(pad * batch.height), round(pad * batch.width)))
    return Motion(lambda rows, cols: (rows + down, cols + right))
