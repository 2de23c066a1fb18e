"""The one training loop. Endpoints and curves differ only in `sample`, standard and robust models only in `attack`."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from neuralign.images import Images, Transform
from neuralign.networks import Model, criterion, logits
from neuralign.parameters import Layout
from neuralign.seeding import derive, stream

log = logging.getLogger(__name__)

Attack = Callable[[Callable, Tensor, Tensor, torch.Generator], Tensor]
Row = dict[str, float]


class Diverged(RuntimeError):
    """The loss is not finite any more; the message says where and what to change."""


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
    """All that is needed to go on after an epoch, to the same bits."""

    trainable: Tensor
    velocity: Tensor
    buffers: dict[str, Tensor]
    epoch: int = 0
    history: list[Row] = field(default_factory=list)


class Keeper(Protocol):
    """Keeps a `Progress` safe between epochs (checkpoints.py has one on disk)."""

    def restore(self, fresh: Progress) -> Progress: ...

    def keep(self, progress: Progress) -> None: ...


def fit(
    model: Model,
    trainable: Tensor,
    sample: Callable[[Tensor, float], Tensor],
    layout: Layout,
    buffers: Mapping[str, Tensor],
    images: Images,
    regime: Regime,
    *,
    transform: Transform,
    attack: Attack | None = None,
    seed: int,
    keeper: Keeper | None = None,
    constrain: Callable[[Tensor, float], None] | None = None,
) -> Progress:
    """Train `trainable` so that `sample(trainable, t)`, t uniform in [0, 1] afresh for each batch, has a low loss.

    The objective is the criterion plus weight_decay / 2 times the squared norm of the *sampled* parameters, which at an
    endpoint is SGD's own weight decay and on a curve the paper's. An attack sees batch statistics but never updates the
    buffers. `constrain(trainable, lr)` changes `trainable` in place after every step. Histories have one row per epoch:
    epoch, lr, loss (the criterion), penalty (the norm term), accuracy (percent). Raises `Diverged`.
    """
    start = Progress(
        trainable.detach().clone(), torch.zeros_like(trainable), {k: b.clone() for k, b in buffers.items()}
    )
    progress = keeper.restore(start) if keeper else start
    if progress.epoch:
        log.info("resumed after epoch %d of %d", progress.epoch, regime.epochs)
    began, done = time.monotonic(), progress.epoch
    model.network.train()
    step = _Step(model, progress, sample, layout, regime, attack, constrain)
    for epoch in range(progress.epoch, regime.epochs):
        row = _epoch(step, images, transform, seed, epoch)
        progress.history.append(row)
        progress.epoch = epoch + 1
        if keeper:
            keeper.keep(progress)
        _report(row, regime.epochs, images=len(images), seconds=time.monotonic() - began, trained=epoch + 1 - done)
    return progress


@dataclass(frozen=True)
class _Step:
    model: Model
    progress: Progress
    sample: Callable[[Tensor, float], Tensor]
    layout: Layout
    regime: Regime
    attack: Attack | None
    constrain: Callable[[Tensor, float], None] | None

    def __call__(self, x: Tensor, y: Tensor, t: float, lr: float, noise: torch.Generator) -> list[Tensor]:
        """One step; the criterion, the penalty and the number of right answers, left on the device."""
        weights = self.progress.trainable.detach().requires_grad_()  # the same memory, a new leaf
        flat = self.sample(weights, t)
        if self.attack:
            x = self.attack(self._predictor(flat.detach()), x, y, noise)
        with self._precision(x.device):
            outputs = self.model(self.layout.views(flat) | self.progress.buffers, x)
            loss = criterion(outputs, y)
        penalty = self.regime.weight_decay / 2 * flat.square().sum()
        (gradient,) = torch.autograd.grad(loss + penalty, weights)
        self._descend(gradient, lr)
        if self.constrain:
            self.constrain(self.progress.trainable, lr)
        return [loss.detach(), penalty.detach(), (logits(outputs).argmax(1) == y).sum()]

    def _descend(self, gradient: Tensor, lr: float) -> None:
        """SGD with (Nesterov) momentum, as torch.optim.SGD has it, whose import alone costs a second in every job."""
        momentum = self.regime.momentum
        velocity = self.progress.velocity.mul_(momentum).add_(gradient)
        change = gradient.add_(velocity, alpha=momentum) if self.regime.nesterov else velocity
        self.progress.trainable.add_(change, alpha=-lr)

    def _predictor(self, flat: Tensor) -> Callable[[Tensor], Any]:
        state = self.layout.views(flat) | {name: b.clone() for name, b in self.progress.buffers.items()}

        def predict(pixels: Tensor) -> Any:
            with self._precision(pixels.device):
                return self.model(state, pixels)

        return predict

    def _precision(self, device: torch.device) -> Any:
        if self.regime.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.regime.precision))


def _epoch(step: _Step, images: Images, transform: Transform, seed: int, epoch: int) -> Row:
    device, size, regime = images.labels.device, step.regime.batch_size, step.regime
    lr = regime.lr * regime.schedule(epoch, regime.epochs)
    order, draws = stream(seed, "order", epoch), stream(seed, "augmentation", epoch)
    noise = stream(seed, "attack", epoch, device=device)
    count = -(-len(images) // size)
    ts = torch.rand(count, generator=stream(seed, "t", epoch), dtype=torch.float64).tolist()
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # criterion, penalty, right answers
    bad = torch.full((), count, dtype=torch.int64, device=device)  # the first step with a non-finite loss or result
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "dropout", epoch))
        for i, (x, y) in enumerate(images.shuffled(size, transform, order, draws)):
            loss, penalty, right = step(x, y, ts[i], lr, noise)
            totals += torch.stack([loss * len(y), penalty * len(y), right]).double()
            bad = torch.where(torch.isfinite(loss + penalty), bad, bad.clamp(max=i))
    bad = torch.where(torch.isfinite(step.progress.trainable).all(), bad, bad.clamp(max=count - 1))
    if (first := int(bad)) < count:  # the only wait for the device in an epoch
        raise Diverged(
            f"the loss is not finite in epoch {epoch + 1}, step {first + 1} of {count}, at learning rate {lr:.4g}: "
            "lower `lr` of this regime, or look for non-finite weights in what it starts from"
        )
    loss, penalty, right = (totals / len(images)).tolist()
    return {"epoch": epoch + 1, "lr": lr, "loss": loss, "penalty": penalty, "accuracy": 100 * right}


def _report(row: Row, epochs: int, *, images: int, seconds: float, trained: int) -> None:
    log.info(
        "epoch %d/%d  lr %.4f  loss %.4f  accuracy %.2f %%  %.0f images/s  %.0f s left",
        *(row["epoch"], epochs, row["lr"], row["loss"], row["accuracy"]),
        *(images * trained / seconds, (epochs - row["epoch"]) * seconds / trained),
    )
