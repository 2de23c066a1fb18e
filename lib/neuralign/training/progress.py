"""The settings of a training, and its progress from step to step."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from neuralign.config.plugins import plugin, plugin_or_none
from neuralign.training.optimiser import Optimiser

# (pixels -> outputs, pixels (n, c, h, w) in [0, 1], labels (n,), generator) -> perturbed pixels
Attack = Callable[[Callable, Tensor, Tensor, torch.Generator], Tensor]
# (trainable, weights of the control points (n,)) -> parameters of one network (d,)
Sample = Callable[[Tensor, Tensor], Tensor]
Constraint = Callable[[Tensor, Tensor], None]  # (trainable, learning rate ()); changes `trainable` in place
Row = dict[str, float]  # of the history: epoch, lr, loss, penalty, accuracy


class Diverged(RuntimeError):
    """The loss or weights are not finite, or the loss exceeds its bound; the message says where and what to change."""


@dataclass(frozen=True)
class Regime:
    """How one model is trained: the `endpoint` or `curve` settings of a regime in the config."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float  # of the penalty weight_decay / 2 * |parameters|^2
    schedule: Callable[[float, int], float]  # (epoch from 0, epochs) -> factor of `lr`
    nesterov: bool = True
    precision: str = "float32"  # or a dtype of torch.autocast
    optimiser: Optimiser | None = None  # None: SGD with the momentum of the regime
    clip: float | None = None  # largest norm of the gradient of the loss by the sampled parameters
    warm_up: float = 0.0  # epochs in which the learning rate grows from 0
    schedule_by: str = "epoch"  # or "step": when the schedule is read
    # of several processes: "synchronised", with the statistics of whole batches, or "per_process", of its part in each
    batch_norm: str = "synchronised"

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Regime":
        """The training settings of a config entry but `gpus`, its schedule and its optimiser as objects."""
        make_optimiser = plugin_or_none("optimisers", entry.get("optimiser"))
        optimiser = make_optimiser() if make_optimiser else None
        entry = {key: value for key, value in entry.items() if key != "gpus"}  # of whoever starts the processes
        return cls(**{**entry, "schedule": plugin("schedules", entry["schedule"]), "optimiser": optimiser})

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of a step, epochs and steps counted from 0; `steps`: in an epoch.

        A schedule by step is read in the middle of the step, at a fractional epoch.
        """
        middle = epoch + (step + 0.5) / steps
        factor = self.schedule(epoch if self.schedule_by == "epoch" else middle, self.epochs)
        return self.lr * factor * (min(1.0, middle / self.warm_up) if self.warm_up else 1.0)


@dataclass
class Progress:
    """All that a training needs to continue after any step and give the same bits."""

    trainable: Tensor  # of any shape: (d,) for an endpoint, (bends, k) for a curve
    optimiser: dict[str, Tensor]  # the state of the optimiser, such as SGD's velocity
    buffers: dict[str, Tensor]  # the tensors of the network that are not in its vector
    epoch: int = 0  # complete epochs
    step: int = 0  # complete steps of the current epoch
    history: list[Row] = field(default_factory=list)
    # Sums of the current epoch, on the device: the loss, the penalty and the objective's other metrics over its
    # examples, and the number of steps after which the first two sums were still within their limits.
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))

    def finish(self, row: Row) -> None:
        """Complete the current epoch with its row of the history."""
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()


class Keeper(Protocol):
    """Saves and restores a `Progress`; `checkpoints.Checkpoint` does so on disk."""

    def restore(self, fresh: Progress) -> Progress:
        """The saved progress, or `fresh` if there is none."""
        ...

    def keep(self, progress: Progress) -> None:
        """Save `progress`, or not; called after every step and epoch."""
        ...


def autocast(device: torch.device, precision: str) -> Any:
    """A block in which networks run in this precision by `torch.autocast`; for "float32" it changes nothing."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def in_precision(attack: Attack, precision: str) -> Attack:
    """The attack on a network that computes in this precision ("float32", or a dtype of `torch.autocast`)."""
    if precision == "float32":
        return attack

    def attack_in_precision(
        predict: Callable[[Tensor], Any], pixels: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        def predict_in_precision(x: Tensor) -> Any:
            with autocast(x.device, precision):
                return predict(x)

        return attack(predict_in_precision, pixels, labels, generator)

    return attack_in_precision
