"""Random horizontal flips."""

import torch

from neuralign.config.options import Fraction
from neuralign.training.augmentation import Batch, Motion


def flip(batch: Batch, *, probability: Fraction = 0.5) -> Motion:
    """Each image mirrored left to right with this probability.

    Args:
        probability: The probability that an image is mirrored.
    """
    mirrored = batch.uniform() < probability  # (n, 1, 1); never for 0, always for 1
    last = batch.width - 1
    return Motion(lambda rows, cols: (rows, torch.where(mirrored, last - cols, cols)))
