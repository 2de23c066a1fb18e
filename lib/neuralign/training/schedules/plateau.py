"""Constant, then linear decay, then constant again (Garipov et al. 2018; the paper's robust models)."""

from neuralign.config.options import Fraction


def plateau(epoch: float, epochs: int, *, hold: Fraction = 0.5, until: Fraction = 0.9, floor: Fraction = 0.01) -> float:
    """1 until the share `hold` of the epochs, then linearly down to `floor` at the share `until`, then `floor`.

    Args:
        hold: Share of the epochs after which the learning rate begins to fall.
        until: Share of the epochs after which it has fallen to its end.
        floor: Factor of the learning rate from there on.
    """
    progress = epoch / epochs
    if progress <= hold:
        return 1.0
    if progress >= until:
        return floor
    return 1 - (1 - floor) * (progress - hold) / (until - hold)
