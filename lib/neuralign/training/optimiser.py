"""Optimisers: how gradients change what is trained. SGD, the default, is here; the others are plug-ins.

A plug-in of `optimisers/` is `name(*, ...options) -> Optimiser`. The formulas are those of torch.optim, but not its
classes: to make one imports PyTorch's compiler, which takes seconds, and hides the state. Here the state is part of
`Progress`, and a step reads no value of a tensor in Python, so that it can be recorded as a CUDA graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

State = Mapping[str, Tensor]  # name -> tensor that steps change in place


class Optimiser(Protocol):
    """An optimiser without its state, so that several trainings can share one."""

    @property
    def decoupled(self) -> bool:
        """Whether weight decay is a step of plain SGD beside the optimiser's, rather than part of its gradient."""
        ...

    def initial_state(self, trainable: Tensor) -> dict[str, Tensor]:
        """The state before the first step."""
        ...

    def step(self, trainable: Tensor, state: State, gradient: Tensor, lr: Tensor) -> None:
        """Change `trainable` and `state` in place. The gradient has the shape of `trainable` and may be overwritten."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with (Nesterov) momentum, as torch.optim.SGD."""

    momentum: float
    nesterov: bool
    decoupled: bool = False

    def initial_state(self, trainable: Tensor) -> dict[str, Tensor]:
        """The velocity, of the shape of `trainable`."""
        return {"velocity": torch.zeros_like(trainable)}

    def step(self, trainable: Tensor, state: State, gradient: Tensor, lr: Tensor) -> None:
        """See `Optimiser`."""
        velocity = state["velocity"].mul_(self.momentum).add_(gradient)
        change = gradient.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        trainable.addcmul_(change, lr, value=-1)


def clip_(gradient: Tensor, largest: float) -> None:
    """Scale a gradient in place so that its norm is at most `largest`, as `torch.nn.utils.clip_grad_norm_` does."""
    gradient.mul_((largest / (gradient.norm() + 1e-6)).clamp(max=1.0))
