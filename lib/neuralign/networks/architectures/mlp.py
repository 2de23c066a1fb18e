"""A multilayer perceptron, for tables."""

from torch import nn

from neuralign.config.options import Count


def mlp(classes: int, channels: int, *, width: Count = 64, depth: Count = 2) -> nn.Module:
    """`depth` hidden layers of `width` ReLU units, and a linear layer: rows (n, channels) to outputs (n, classes).

    The channels are the columns of a table, the classes its classes or the numbers to predict.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
    """
    network, units = nn.Sequential(), channels
    for i in range(1, depth + 1):
        network.add_module(f"hidden{i}", nn.Linear(units, width))
        network.add_module(f"relu{i}", nn.ReLU())
        units = width
    network.add_module("output", nn.Linear(units, classes))
    return network
