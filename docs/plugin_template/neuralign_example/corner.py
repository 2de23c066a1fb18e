"""An attack that does not look at the network: a random corner of the l-infinity ball."""

from collections.abc import Callable

import torch
from torch import Tensor

from neuralign.common.seeding import uniform
from neuralign.config.options import PositiveFraction


def corner(
    predict: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    eps: PositiveFraction,
) -> Tensor:
    """Pixels (n, c, h, w) in [0, 1], each moved up or down by `eps` at random.

    Args:
        eps: Change of a pixel, in pixels of [0, 1].
    """
    signs = (uniform(pixels.shape, generator).to(pixels.device) - 0.5).sign()
    return (pixels + eps * signs).clamp(0, 1)
