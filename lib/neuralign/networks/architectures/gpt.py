"""GPT, a language model: the decoder of a transformer, as Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners", with learned or rotary positions."""

from typing import Literal

import torch
from torch import Tensor, nn

from neuralign.config.options import Count, Flag
from neuralign.networks.layers.transformer import blocks, initialise


def gpt(
    classes: int,
    channels: int,
    *,
    width: Count = 128,
    depth: Count = 5,
    heads: Count = 4,
    ratio: Count = 4,
    context: Count | None = None,
    positions: Literal["learned", "rotary"] = "learned",
    tied: Flag = True,
) -> nn.Module:
    """A decoder of `depth` blocks, for tokens (n, t) in 0 .. classes - 1; logits (n, t, classes) of the next tokens.

    The classes are the vocabulary: 256 for the bytes of a text. The channels are the second dimension of the inputs,
    here the number of tokens in a window. With these defaults, 256 classes and windows of 128 tokens there are 1.04
    million parameters.

    Args:
        width: Channels of the residual stream, a multiple of `heads`.
        depth: Number of blocks.
        heads: Heads of each attention.
        ratio: Units of each perceptron, in multiples of the width.
        context: Largest number of tokens in a window; null: that of the dataset.
        positions: How the network knows the places of tokens: `learned` vectors are added to the stream, `rotary` ones
            turn queries and keys.
        tied: Whether the last layer has the weights of the embedding.
    """
    return GPT(classes, context or channels, width, depth, heads, ratio, positions == "rotary", tied)


class GPT(nn.Module):
    def __init__(
        self, vocabulary: int, context: int, width: int, depth: int, heads: int, ratio: int, rotary: bool, tied: bool
    ):
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = None if rotary else nn.Parameter(torch.empty(context, width))
        self.blocks = blocks(width, depth, heads, ratio, causal=True, rotary=rotary)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        initialise(self, depth)

    def forward(self, tokens: Tensor) -> Tensor:  # int64 (n, t) -> (n, t, vocabulary)
        if tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32) or tokens.shape[1] > self.context:
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; whole numbers (n, t) with t at most "
                f"{self.context}, the `context`, are needed"
            )
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions[: tokens.shape[1]]
        return self.head(self.blocks(x))
