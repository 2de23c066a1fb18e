"""Step decay, as in the paper's code for standard models."""

from neuralign.config.options import Count, Positive


def halving(epoch: int, epochs: int, *, every: Count = 20, factor: Positive = 0.5, drift: Positive = 0.9996) -> float:
    """`factor` to the number of whole blocks of `every` epochs, times `drift` to the number of epochs.

    Args:
        every: Epochs from one step to the next.
        factor: What each step multiplies the learning rate by.
        drift: What each epoch multiplies the learning rate by, besides.
    """
    return factor ** (epoch // every) * drift**epoch
