"""Constant, then linear decay, then constant again (Garipov et al. 2018; the paper's robust models)."""

from neuralign.config.options import Fraction


def plateau(epoch: int, epochs: int, *, hold: Fraction = 0.5, until: Fraction = 0.9, floor: Fraction = 0.01) -> float:
    """1 up to the share `hold` of the epochs, falling linearly to `floor` at `until`, then `floor`.

    Args:
        hold: Share of the epochs before the fall begins.
        until: Share of the epochs after which the fall is over.
        floor: Factor of the learning rate from there on.
    """
    progress = epoch / epochs
    if progress <= hold:
        return 1.0
    if progress >= until:
        return floor
    return 1 - (1 - floor) * (progress - hold) / (until - hold)
