"""A constant learning rate."""


def constant(epoch: int, epochs: int) -> float:
    """1 in every epoch."""
    return 1.0
