"""TinyTen, a plain convolutional network: "Tiny-10" of Kornblith et al. 2019, Similarity of Neural Network
Representations Revisited, with the strides, paddings and initialisation of Tatro et al. 2020."""

from collections import OrderedDict
from typing import Annotated

from torch import Tensor, nn

from neuralign.config.options import Count, Flag, at_least

# each convolution as (output channels in multiples of `width`, kernel, stride, padding)
FIRST = (1, 3, 1, 1), (1, 3, 1, 1), (2, 3, 2, 1)
MIDDLE = (2, 3, 1, 1)
LAST = (4, 3, 2, 1), (4, 3, 1, 0), (4, 1, 1, 0)


def tinyten(
    classes: int,
    channels: int,
    *,
    width: Count = 16,
    depth: Annotated[int, at_least(6)] = 8,
    strided: Flag = False,
) -> nn.Module:
    """A plain network of `depth` convolutions and one linear layer, for images of at least 16x16 pixels.

    Depth 8 is the paper's; other depths have more or fewer 3x3 convolutions in the middle, at twice the width.

    Args:
        width: Channels of the first convolution; the last has four times as many.
        depth: Number of convolutions.
        strided: Whether the last 3x3 convolution has stride 2 and padding 1, as on curves in the paper's code for Tiny
            ImageNet.
    """
    ends = len(FIRST) + len(LAST)
    if depth < ends:
        raise ValueError(f"depth: found {depth}, TinyTen needs at least {ends} convolutions (the paper has 8)")
    plan = [*FIRST, *[MIDDLE] * (depth - ends), *LAST]
    if strided:
        plan[-2] = (4, 3, 2, 1)
    return TinyTen(classes, channels, width, plan)


class TinyTen(nn.Module):
    def __init__(self, classes: int, channels: int, width: int, plan: list[tuple[int, int, int, int]]):
        super().__init__()
        layers = OrderedDict[str, nn.Module]()
        for i, (widths, kernel, stride, padding) in enumerate(plan, start=1):
            layers[f"conv{i}"] = nn.Conv2d(channels, widths * width, kernel, stride, padding)
            layers[f"bn{i}"] = nn.BatchNorm2d(widths * width)
            layers[f"relu{i}"] = nn.ReLU()
            channels = widths * width
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:  # (n, channels, h, w) -> (n, classes)
        x = self.features(x)
        return self.fc(self.pool(x).flatten(1))


def initialise(layer: nn.Module) -> None:
    """Xavier-normal weights and zero biases; batch norms keep PyTorch's ones and zeros."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_normal_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
