"""What a training needs to be told, and how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from neuralign.curves import Basis

Attack = Callable[[Callable, Tensor, Tensor, torch.Generator], Tensor]
Sample = Callable[[Tensor, Tensor], Tensor]
Constraint = Callable[[Tensor, float], None]
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


@dataclass
class Progress:
    """All that is needed to go on after a step, to the same bits."""

    trainable: Tensor
    velocity: Tensor
    buffers: dict[str, Tensor]
    epoch: int = 0  # complete epochs
    step: int = 0  # complete steps of the epoch after them
    history: list[Row] = field(default_factory=list)
    # of this epoch: see `descent.Stack`
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


@dataclass(frozen=True)
class Task:
    """One of several models to be trained together; the fields are arguments of `fit`."""

    trainable: Tensor
    sample: Sample
    buffers: Mapping[str, Tensor]
    seed: int
    basis: Basis | None = None
    keeper: Keeper | None = None
    constrain: Constraint | None = None

    def begin(self, device: torch.device) -> Progress:
        """Where this training stands: at what was kept, or at its beginning."""
        fresh = Progress(
            self.trainable.detach().clone(),
            torch.zeros_like(self.trainable),
            {name: b.clone() for name, b in self.buffers.items()},
            sums=torch.zeros(4, dtype=torch.float64, device=device),
        )
        return self.keeper.restore(fresh) if self.keeper else fresh
