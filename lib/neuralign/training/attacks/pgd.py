"""Projected gradient descent (PGD) in the l-infinity ball (Madry et al. 2018)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.common.seeding import uniform
from neuralign.config.options import Count, Flag, PositiveFraction
from neuralign.networks.model import criterion, logits


def pgd(
    predict: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    eps: PositiveFraction,
    step: PositiveFraction,
    steps: Count = 5,
    restarts: Count = 1,
    random_start: Flag = True,
) -> Tensor:
    """Adversarial pixels (n, c, h, w) in [0, 1], each at most `eps` from that in `pixels`, which raise the loss.

    With several restarts, the result for each image is the attempt of largest loss among those that the network
    misclassifies, or among all if it misclassifies none. Attempts whose loss is nan are ignored; if all are, the pixels
    stay as they are. With one restart its pixels are returned unconditionally.

    Args:
        eps: Largest change of a pixel, in pixels of [0, 1].
        step: Change of a pixel per step, in pixels of [0, 1]; at most twice `eps`.
        steps: Number of steps.
        restarts: Number of attempts for each image, of which the worst for the network is kept.
        random_start: Whether an attempt starts at a random point of the ball; else it starts at the image itself.
    """
    low, high = (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=1)
    best, best_loss = pixels, torch.full((len(pixels),), -torch.inf, device=pixels.device)
    fooled = torch.zeros_like(best_loss, dtype=torch.bool)  # whether `best` is misclassified
    for _ in range(restarts):
        attacked = pixels
        if random_start:
            noise = uniform(pixels.shape, generator).to(pixels.device)
            attacked = pixels + (2 * noise - 1) * eps
        for _ in range(steps):
            attacked = attacked.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(criterion(predict(attacked), labels), attacked)
            attacked = attacked.detach().add(gradient.sign(), alpha=step).clamp(low, high)
        if restarts == 1:
            return attacked
        with torch.no_grad():
            predicted = logits(predict(attacked))
        losses, wrong = F.cross_entropy(predicted, labels, reduction="none"), predicted.argmax(1) != labels
        better = torch.where(wrong == fooled, losses > best_loss, wrong) & ~losses.isnan()
        best = torch.where(better.view(-1, 1, 1, 1), attacked, best)
        best_loss, fooled = torch.where(better, losses, best_loss), fooled | (wrong & better)
    return best
