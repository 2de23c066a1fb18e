"""AdamW (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization"), as torch.optim.AdamW."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuralign.config.options import FractionBelowOne, Positive
from neuralign.training.optimiser import Optimiser, State


def adamw(*, beta1: FractionBelowOne = 0.9, beta2: FractionBelowOne = 0.999, eps: Positive = 1e-8) -> Optimiser:
    """Steps of the mean gradient, divided by the root of the mean squared gradient, coordinate by coordinate.

    The weight decay is not part of this gradient: the gradient of its penalty, of the parameters of the sampled
    network, is a step of plain SGD beside it.

    Args:
        beta1: Decay of the running mean of gradients, in each step.
        beta2: Decay of the running mean of squared gradients, in each step.
        eps: Added to the root of the mean square, so that coordinates without gradients stay.
    """
    return AdamW(beta1, beta2, eps)


@dataclass(frozen=True)
class AdamW:
    beta1: float
    beta2: float
    eps: float
    decoupled: bool = True

    def initial_state(self, trainable: Tensor) -> dict[str, Tensor]:
        """Means of gradients and of their squares, and the number of steps, on the device of `trainable`."""
        steps = torch.zeros((), dtype=torch.float64, device=trainable.device)
        return {"mean": torch.zeros_like(trainable), "square": torch.zeros_like(trainable), "steps": steps}

    def step(self, trainable: Tensor, state: State, gradient: Tensor, lr: Tensor) -> None:
        """See `Optimiser`."""
        steps = state["steps"].add_(1)
        mean = state["mean"].lerp_(gradient, 1 - self.beta1)
        square = state["square"].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        # both means start at zero; these are the sums of their weights
        of_mean, of_square = 1 - self.beta1**steps, 1 - self.beta2**steps
        root = (square / of_square).sqrt_().add_(self.eps)
        trainable.sub_((mean / root).mul_(lr / of_mean))
