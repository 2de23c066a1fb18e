"""The blocks of transformers: attention and a perceptron on a residual stream, each after a layer norm ("pre-norm").

Sources: Vaswani et al. 2017, "Attention Is All You Need"; Xiong et al. 2020 for the place of the norms; Su et al. 2021,
"RoFormer", for rotary positions; Radford et al. 2019 (GPT-2) for the initialisation.
"""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOWEST = 10_000.0  # the slowest rotation turns by one radian in this many positions


def blocks(width: int, depth: int, heads: int, ratio: int, *, causal: bool = False, rotary: bool = False) -> nn.Module:
    """A residual stream (n, t, width) -> the same shape, through `depth` blocks and a last layer norm.

    Args:
        width: of the stream; a multiple of `heads`.
        depth: how many blocks.
        heads: of each attention.
        ratio: units of each perceptron, in multiples of `width`.
        causal: whether a position sees only itself and those before it.
        rotary: whether queries and keys are rotated by their positions. The width of a head must then be even.

    Raises ValueError if heads and width do not fit.
    """
    if width % heads:
        raise ValueError(f"heads: found {heads} for width {width}; the width must be a multiple of the heads")
    if rotary and width // heads % 2:
        raise ValueError(
            f"heads: found {heads} for width {width}, so {width // heads} channels in each; rotary positions turn "
            "pairs of channels, so there must be an even number of them"
        )
    stack = [Block(width, heads, ratio, causal, rotary) for _ in range(depth)]
    return nn.Sequential(*stack, nn.LayerNorm(width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int, causal: bool, rotary: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal, rotary)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("up", nn.Linear(width, ratio * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("down", nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:  # (n, t, width) -> (n, t, width)
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Self-attention. Only the output has a bias; one of the keys would add the same to all scores of a query."""

    def __init__(self, width: int, heads: int, causal: bool, rotary: bool):
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (n, t, width) -> (n, t, width)
        # each of (n, heads, t, width / heads)
        q, k, v = (f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.rotary:
            q, k = rotated(q), rotated(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.output(y.transpose(1, 2).flatten(2))


def rotated(x: Tensor) -> Tensor:
    """Channels (..., t, 2 k) with the pair (i, i + k) turned by position * SLOWEST ** (-i / k) radians."""
    half = x.shape[-1] // 2
    speeds = SLOWEST ** -(torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)[:, None] * speeds  # (t, k)
    cosine, sine = angles.cos(), angles.sin()
    first, second = x.split(half, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def initialise(network: nn.Module, depth: int) -> None:
    """GPT-2's initialisation: weights from N(0, 0.02^2), zero biases; layer norms keep PyTorch's ones and zeros.

    The layers that write to the stream, `attention.output` and `mlp.down`, start smaller by sqrt(2 depth), so that the
    stream does not grow with the depth.
    """
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            writes_to_stream = name.endswith(("attention.output.weight", "mlp.down.weight"))
            nn.init.normal_(parameter, std=0.02 / sqrt(2 * depth) if writes_to_stream else 0.02)
