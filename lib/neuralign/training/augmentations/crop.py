"""Random crops of padded images."""

from neuralign.config.options import Fraction
from neuralign.training.augmentation import Batch, Motion


def crop(batch: Batch, *, pad: Fraction = 0.125) -> Motion:
    """Each image padded with black and cropped to its size at a uniformly random position.

    `pad` is the width of the padding as a share of the side of the image: by default 4 pixels of 32, 8 of 64.
    """
    down, right = (batch.integers(-border, border) for border in (round(pad * batch.height), round(pad * batch.width)))
    return Motion(lambda rows, cols: (rows + down, cols + right))
