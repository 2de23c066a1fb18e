"""Residual networks for small images: He et al. 2016, Deep Residual Learning for Image Recognition, section 4.2,
with the projection shortcuts ("option B") of Tatro et al. 2020."""

from typing import Annotated

from torch import Tensor, nn

from neuralign.config.options import Count, every

# Fewest input channels with which a 1x1 convolution of stride 2 may be differentiated on channels-last images. With
# fewer, oneDNN in torch 2.14 writes beyond its memory on processors without AVX-512, and the process is aborted.
SAFE_CHANNELS = 8


def resnet(classes: int, channels: int, *, depth: Annotated[int, every(6, 8)] = 32, width: Count = 16) -> nn.Module:
    """A ResNet with a stem, three stages of (depth - 2) / 6 residual blocks and a linear layer, for images from 16x16.

    Depth 32 and width 16 are the paper's.

    Args:
        depth: Number of layers: 6n + 2 with n residual blocks of two convolutions in each of the three stages.
        width: Channels of the first stage; the second has twice, the third four times as many.
    """
    blocks, remainder = divmod(depth - 2, 6)
    if blocks < 1 or remainder:
        raise ValueError(f"depth: found {depth}, allowed are 6n + 2, that is 8, 14, 20, 26, 32, ...")
    return ResNet(classes, channels, blocks, width)


class ResNet(nn.Module):
    def __init__(self, classes: int, channels: int, blocks: int, width: int):
        super().__init__()
        self.conv1 = conv(channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = stage(width, width, blocks, stride=1)
        self.stage2 = stage(width, 2 * width, blocks, stride=2)
        self.stage3 = stage(2 * width, 4 * width, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:  # (n, channels, h, w) -> (n, classes)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.pool(x).flatten(1))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks with the same number of channels; only the first may change it, and the resolution."""
    return nn.Sequential(Block(inputs, outputs, stride), *[Block(outputs, outputs, 1) for _ in range(blocks - 1)])


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        self.sample: nn.Module = nn.Identity()  # takes every second row and column where a stride would be unsafe
        if stride > 1:
            if inputs < SAFE_CHANNELS:
                self.sample, stride = nn.MaxPool2d(1, stride), 1
            projection = conv(inputs, outputs, 1, stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu2(residual + self.shortcut(self.sample(x)))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, initialised Kaiming-normal with fan-out (He et al. 2015)."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
