"""The settings of a training, and its progress between two steps."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from neuralign.config.plugins import plugin

Attack = Callable[[Callable, Tensor, Tensor, torch.Generator], Tensor]
Sample = Callable[[Tensor, Tensor], Tensor]
Constraint = Callable[[Tensor, Tensor], None]
Row = dict[str, float]


class Diverged(RuntimeError):
    """The loss or weights are not finite, or the loss exceeds its bound; the message says where and what to change."""


@dataclass(frozen=True)
class Regime:
    """How one model is trained: the `endpoint` or `curve` settings of a regime in the config."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Callable[[int, int], float]
    nesterov: bool = True
    precision: str = "float32"

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Regime":
        """The training settings of a config entry, its schedule as a function."""
        return cls(**{**entry, "schedule": plugin("schedules", entry["schedule"])})


@dataclass
class Progress:
    """All that is needed to continue after any step, to the same bits."""

    trainable: Tensor
    velocity: Tensor
    buffers: dict[str, Tensor]
    epoch: int = 0  # complete epochs
    step: int = 0  # complete steps of the epoch after them
    history: list[Row] = field(default_factory=list)
    # Of the current epoch, on the device: criterion and penalty summed over images, the number of correct images, and
    # the number of steps before the first one whose loss is not finite or exceeds its bound.
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))

    def finish(self, row: Row) -> None:
        """Complete the current epoch with its row of the history."""
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()


class Keeper(Protocol):
    """Saves a `Progress` between steps (on disk: `checkpoints.Checkpoint`)."""

    def restore(self, fresh: Progress) -> Progress: ...

    def keep(self, progress: Progress) -> None: ...


def cast(device: torch.device, precision: str) -> Any:
    """A block in which a network runs in this precision (`torch.autocast`; float32: unchanged)."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
