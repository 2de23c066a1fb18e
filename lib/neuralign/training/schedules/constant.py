"""The learning rate as it is."""


def constant(epoch: int, epochs: int) -> float:
    """1 in every epoch."""
    return 1.0
