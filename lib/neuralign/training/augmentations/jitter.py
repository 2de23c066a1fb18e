"""Random contrast and saturation."""

import torch
from torch import Tensor

from neuralign.config.options import NonNegative
from neuralign.training.augmentation import Batch, Tint

LUMINANCE = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def jitter(batch: Batch, *, contrast: NonNegative = 0.0, saturation: NonNegative = 0.0) -> Tint:
    """Each image with random contrast and saturation, changed in random order, as by torchvision's ColorJitter.

    Args:
        contrast: Half width of the range of factors, which are uniform in [1 - contrast, 1 + contrast] and at least 0.
        saturation: The same for saturation; images without three channels keep theirs.
    """
    contrasts, saturations = (batch.uniform(max(0.0, 1 - x), 1 + x).unsqueeze(1) for x in (contrast, saturation))
    saturation_first = (batch.uniform() < 0.5).unsqueeze(1)  # (n, 1, 1, 1)
    before = torch.where(saturation_first, saturations, 1.0)  # before contrast is changed; a factor of 1 has no effect
    after = torch.where(saturation_first, 1.0, saturations)

    def tint(images: Tensor) -> Tensor:
        images = images.contiguous()  # on a CPU four times as fast as channels last
        return saturated(contrasted(saturated(images, before), contrasts), after)

    return tint


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """The images (n, c, h, w), their distance from their mean grey value times `factor` (n, 1, 1, 1), in [0, 1]."""
    return torch.lerp(_to_grey(images.mean((2, 3), keepdim=True)), images, factor).clamp_(0, 1)


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """The images (n, c, h, w), their distance from their grey version times `factor` (n, 1, 1, 1), in [0, 1]."""
    if images.shape[1] != len(LUMINANCE):
        return images
    return torch.lerp(_to_grey(images), images, factor).clamp_(0, 1)


def _to_grey(images: Tensor) -> Tensor:
    """The luminance of RGB images, else the mean of the channels: (n, c, h, w) -> (n, 1, h, w)."""
    if images.shape[1] != len(LUMINANCE):
        return images.mean(1, keepdim=True)
    parts = [channel * share for channel, share in zip(images.split(1, 1), LUMINANCE, strict=True)]
    return parts[0] + parts[1] + parts[2]  # a tensor of LUMINANCE would be copied to a GPU at every step
