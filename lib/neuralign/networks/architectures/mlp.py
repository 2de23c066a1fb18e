"""A multilayer perceptron, for tables and small images."""

from typing import Literal

from torch import nn

from neuralign.config.options import Count


def mlp(
    classes: int,
    channels: int,
    *,
    width: Count = 64,
    depth: Count = 2,
    inputs: Count | None = None,
    norm: Literal["none", "batch"] = "none",
) -> nn.Module:
    """`depth` hidden layers of `width` ReLU units, and a linear layer: rows (n, inputs) to outputs (n, classes).

    The channels are the columns of a table, the classes its classes or the numbers to predict. Images are flattened.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        inputs: Numbers in an input, such as the pixels of an image; null: the channels.
        norm: Whether batch norm comes before each ReLU.
    """
    network, units = nn.Sequential(), inputs or channels
    if inputs is not None:
        network.add_module("flatten", nn.Flatten())
    for i in range(1, depth + 1):
        network.add_module(f"hidden{i}", nn.Linear(units, width))
        if norm == "batch":
            network.add_module(f"norm{i}", nn.BatchNorm1d(width))
        network.add_module(f"relu{i}", nn.ReLU())
        units = width
    network.add_module("output", nn.Linear(units, classes))
    return network
