"""A vision transformer: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", with positions learned for rows and
columns of patches."""

from typing import Literal

import torch
from torch import Tensor, nn

from neuralign.config.options import Count
from neuralign.networks.layers.transformer import blocks, initialise


def vit(
    classes: int,
    channels: int,
    *,
    width: Count = 64,
    depth: Count = 4,
    heads: Count = 4,
    ratio: Count = 4,
    patch: Count = 4,
    grid: Count = 16,
    pooling: Literal["mean", "class_token"] = "mean",
) -> nn.Module:
    """An encoder of `depth` blocks on patches of images whose sides are multiples of `patch`, and a linear layer.

    Args:
        width: Channels of the residual stream, a multiple of `heads`.
        depth: Number of blocks.
        heads: Heads of each attention.
        ratio: Units of each perceptron, in multiples of the width.
        patch: Height and width of a patch in pixels.
        grid: Largest number of patches along a side of an image.
        pooling: What the linear layer reads: the `mean` of all patches, or a `class_token` of its own.
    """
    return ViT(classes, channels, width, depth, heads, ratio, patch, grid, pooling == "class_token")


class ViT(nn.Module):
    def __init__(
        self,
        classes: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        ratio: int,
        patch: int,
        grid: int,
        class_token: bool,
    ):
        super().__init__()
        self.patch, self.grid = patch, grid
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.rows = nn.Parameter(torch.empty(grid, width))
        self.columns = nn.Parameter(torch.empty(grid, width))
        self.token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.blocks = blocks(width, depth, heads, ratio)
        self.head = nn.Linear(width, classes)
        initialise(self, depth)

    def forward(self, images: Tensor) -> Tensor:  # (n, channels, h, w) -> (n, classes)
        if any(side % self.patch or side > self.grid * self.patch for side in images.shape[2:]):
            raise ValueError(
                f"the sides of images must be multiples of {self.patch} pixels, `patch`, and at most {self.grid} times "
                f"as long, `grid`; found images of shape {tuple(images.shape)}"
            )
        x = self.patches(images).permute(0, 2, 3, 1)  # (n, rows, columns, width)
        x = x + self.rows[: x.shape[1], None] + self.columns[: x.shape[2]]
        x = x.flatten(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.blocks(x)
        return self.head(x.mean(1) if self.token is None else x[:, 0])
