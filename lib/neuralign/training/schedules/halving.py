"""Step decay, as in the paper's code for standard models."""

from neuralign.config.options import Count, Positive


def halving(epoch: float, epochs: int, *, every: Count = 20, factor: Positive = 0.5, drift: Positive = 0.9996) -> float:
    """`factor ** (epoch // every) * drift ** epoch`: a step every `every` epochs, and a slow decay.

    Args:
        every: Epochs from one step to the next.
        factor: Factor of the learning rate at each step.
        drift: Further factor of the learning rate at each epoch.
    """
    return factor ** (epoch // every) * drift**epoch
