"""Cosine decay (Loshchilov & Hutter 2017, "SGDR"), without restarts."""

from math import cos, pi

from neuralign.config.options import Fraction


def cosine(epoch: float, epochs: int, *, floor: Fraction = 0.0) -> float:
    """Half a cosine from 1 at the beginning down to `floor` at the end of the last epoch.

    Args:
        floor: Factor of the learning rate at the end.
    """
    return floor + (1 - floor) * (1 + cos(pi * epoch / epochs)) / 2
