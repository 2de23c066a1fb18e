"""Step decay of the paper's standard models (spec of the official training script)."""

from neuralign.config.options import Count, Positive


def halving(epoch: int, epochs: int, *, every: Count = 20, factor: Positive = 0.5, drift: Positive = 0.9996) -> float:
    """`factor` to the number of whole blocks of `every` epochs, times `drift` to the number of epochs."""
    return factor ** (epoch // every) * drift**epoch
