"""Step decay, as in the paper's code for standard models."""

from neuralign.config.options import Count, Positive


def halving(epoch: int, epochs: int, *, every: Count = 20, factor: Positive = 0.5, drift: Positive = 0.9996) -> float:
    """Multiplied by `factor` after every `every` epochs, and by `drift` after each epoch."""
    return factor ** (epoch // every) * drift**epoch
