"""GoogLeNet for small images: Szegedy et al. 2015, Going Deeper with Convolutions, with batch norm, a stem of stride
one and 3x3 kernels for the "5x5" branch, as in Tatro et al. 2020."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from neuralign.config.options import Flag, FractionBelowOne, Positive

# channels of each inception block: (1x1, 3x3 reduction, 3x3, "5x5" reduction, "5x5", projection after the pool)
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(
    classes: int,
    channels: int,
    *,
    width: Positive = 1.0,
    auxiliary: Flag = True,
    dropout: FractionBelowOne = 0.2,
    auxiliary_dropout: FractionBelowOne = 0.7,
) -> nn.Module:
    """GoogLeNet with nine inception blocks and one linear layer, for images of at least 16x16 pixels.

    In training mode the output is (logits, auxiliary, auxiliary), each (n, classes), unless `auxiliary` is off; in
    evaluation mode it is the logits alone.

    Args:
        width: Factor by which every number of channels is multiplied.
        auxiliary: Whether there are two auxiliary heads, which training mode alone uses.
        dropout: Share of inputs of the last layer that dropout sets to zero.
        auxiliary_dropout: The same in the auxiliary heads.
    """
    return GoogLeNet(classes, channels, width, dropout, auxiliary_dropout if auxiliary else None)


class GoogLeNet(nn.Module):
    def __init__(self, classes: int, channels: int, width: float, dropout: float, auxiliary: float | None):
        super().__init__()

        def scaled(size: int) -> int:
            return max(1, round(size * width))

        self.conv1 = convolution(channels, scaled(64), 7)
        self.conv2 = convolution(scaled(64), scaled(64), 1)
        self.conv3 = convolution(scaled(64), scaled(192), 3)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception = nn.ModuleDict()
        self.auxiliary = nn.ModuleDict()  # name of a block -> the head on its output
        inputs = scaled(192)
        for name, sizes in BLOCKS.items():
            self.inception[name] = block = Inception(inputs, *map(scaled, sizes))
            inputs = block.outputs
            if auxiliary is not None and name in ("4a", "4d"):
                self.auxiliary[name] = Head(inputs, scaled(128), scaled(1024), classes, auxiliary)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # (n, channels, h, w) -> (n, classes), one or three
        x = self.pool(self.conv3(self.conv2(self.conv1(x))))
        auxiliary = []
        for name, block in self.inception.items():
            x = self.pool(x) if name == "4a" else x
            x = block(x)
            if self.training and name in self.auxiliary:
                auxiliary.append(self.auxiliary[name](x))
        logits = self.fc(self.dropout(self.mean(x).flatten(1)))
        return (logits, *auxiliary) if auxiliary else logits


class Inception(nn.Module):
    """Four branches, concatenated along the channels: 1x1; 1x1 and 3x3; 1x1 and 3x3; max-pooling and 1x1."""

    def __init__(self, inputs: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int):
        super().__init__()
        self.branch1 = convolution(inputs, one, 1)
        self.branch2 = chain(reduce=convolution(inputs, three_in, 1), expand=convolution(three_in, three, 3))
        self.branch3 = chain(reduce=convolution(inputs, five_in, 1), expand=convolution(five_in, five, 3))
        self.branch4 = chain(pool=nn.MaxPool2d(3, stride=1, padding=1), project=convolution(inputs, pooled, 1))
        self.outputs = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Head(nn.Module):
    """An auxiliary classifier on a feature map pooled to 4x4."""

    def __init__(self, inputs: int, width: int, hidden: int, classes: int, dropout: float):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = convolution(inputs, width, 1)
        self.fc1 = nn.Linear(width * 4 * 4, hidden)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)  # (n, width * 16)
        return self.fc2(self.dropout(self.relu(self.fc1(x))))


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the resolution, without bias; batch norm with Inception's epsilon of 1e-3; ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return chain(conv=conv, bn=nn.BatchNorm2d(outputs, eps=1e-3), relu=nn.ReLU())


def chain(**layers: nn.Module) -> nn.Sequential:
    """Named layers in sequence."""
    return nn.Sequential(OrderedDict(layers))


def initialise(layer: nn.Module) -> None:
    """Weights from a normal distribution (standard deviation 0.01) truncated at two deviations; default biases."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
