"""What a training needs to be told, and how far it is."""

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
    """The loss is beyond all bounds, or not finite any more; the message says where and what to change."""


@dataclass(frozen=True)
class Regime:
    """How one model is trained."""

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
    """All that is needed to go on after a step, to the same bits."""

    trainable: Tensor
    velocity: Tensor
    buffers: dict[str, Tensor]
    epoch: int = 0  # complete epochs
    step: int = 0  # complete steps of the epoch after them
    history: list[Row] = field(default_factory=list)
    # Of the epoch under way, on the device: criterion and penalty summed over the images, the number of right answers,
    # and the number of steps before the first one whose loss is beyond all bounds or not finite.
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))

    def finish(self, row: Row) -> None:
        """The epoch is complete."""
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()


class Keeper(Protocol):
    """Keeps a `Progress` safe between steps (checkpoints.py has one on disk)."""

    def restore(self, fresh: Progress) -> Progress: ...

    def keep(self, progress: Progress) -> None: ...


def cast(device: torch.device, precision: str) -> Any:
    """A block in which a network runs in this precision."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
