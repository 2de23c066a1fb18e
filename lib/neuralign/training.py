"""The one training loop. Endpoints and curves differ only in `sample`, standard and robust models only in `attack`."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from neuralign.curves import Basis
from neuralign.images import Images, Transform
from neuralign.networks import Model, criterion, logits
from neuralign.parameters import Layout
from neuralign.seeding import derive, reseed, stream

# Nats, as the mean of an epoch, from which a training has diverged. The criterion has an absolute scale: a network that
# guesses has log(classes), less than 10. A bound relative to the start would mean little, for curves start from good
# networks, bad inputs from a large loss. Single steps may be above; the penalty may be as large as `weight_decay` says.
EXPLODED = 1e4

log = logging.getLogger(__name__)

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
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))  # of this epoch: see `_Step`


class Keeper(Protocol):
    """Keeps a `Progress` safe between steps (checkpoints.py has one on disk)."""

    def restore(self, fresh: Progress) -> Progress: ...

    def keep(self, progress: Progress) -> None: ...


def fit(
    model: Model,
    trainable: Tensor,
    sample: Sample,
    layout: Layout,
    buffers: Mapping[str, Tensor],
    images: Images,
    regime: Regime,
    *,
    transform: Transform,
    basis: Basis | None = None,
    attack: Attack | None = None,
    seed: int,
    keeper: Keeper | None = None,
    constrain: Constraint | None = None,
) -> Progress:
    """Train `trainable` so that `sample(trainable, basis(t))` has a low loss, t uniform in [0, 1] and new at each step.

    The objective is the criterion plus weight_decay / 2 times the squared norm of the *sampled* parameters, which at an
    endpoint is SGD's own weight decay and on a curve the paper's. An endpoint has no `basis`: its sample is itself. An
    attack sees batch statistics but never updates the buffers. `constrain(trainable, lr)` changes `trainable` in place
    after every step. Histories have one row per epoch: epoch, lr, loss (the criterion), penalty (the norm term),
    accuracy (percent). Raises `Diverged`.
    """
    device = images.labels.device
    start = Progress(
        trainable.detach().clone(), torch.zeros_like(trainable), {k: b.clone() for k, b in buffers.items()}
    )
    progress = keeper.restore(start) if keeper else start
    progress.sums = progress.sums.to(device)
    if progress.epoch or progress.step:
        log.info("resumed after epoch %d of %d, step %d", progress.epoch, regime.epochs, progress.step)
    began, done = time.monotonic(), progress.epoch + progress.step * regime.batch_size / len(images)
    model.network.train()
    step = _Step(model, progress, sample, layout, regime, attack, constrain, EXPLODED * len(images))
    while progress.epoch < regime.epochs:
        row = _epoch(step, images, transform, basis, seed, keeper)
        progress.history.append(row)
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.sums.zero_()
        if keeper:
            keeper.keep(progress)
        trained = progress.epoch - done
        _report(row, regime.epochs, images=len(images), seconds=time.monotonic() - began, trained=trained)
    return progress


@dataclass(frozen=True)
class _Step:
    """One step of training, which changes `progress` in place.

    `progress.sums` are, over the images of this epoch so far, the sums of criterion and penalty, the number of right
    answers, and the number of steps before the first one whose loss is beyond all bounds or not finite. They stay on
    the device.
    """

    model: Model
    progress: Progress
    sample: Sample
    layout: Layout
    regime: Regime
    attack: Attack | None
    constrain: Constraint | None
    limit: float  # of the sum of the criterion over an epoch

    def __call__(self, x: Tensor, y: Tensor, coefficients: Tensor, lr: float, noise: torch.Generator) -> None:
        weights = self.progress.trainable.detach().requires_grad_()  # the same memory, a new leaf
        flat = self.sample(weights, coefficients)
        if self.attack:
            x = self.attack(self._predictor(flat.detach()), x, y, noise)
        with self._precision(x.device):
            outputs = self.model(self.layout.views(flat) | self.progress.buffers, x)
            loss = criterion(outputs, y)
        (slope,) = torch.autograd.grad(loss, flat)
        penalty = self.regime.weight_decay / 2 * flat.detach().dot(flat.detach())
        slope.add_(flat.detach(), alpha=self.regime.weight_decay)
        if flat is not weights:
            (slope,) = torch.autograd.grad(flat, weights, slope)
        self._descend(slope, lr)
        if self.constrain:
            self.constrain(self.progress.trainable, lr)
        self._count(loss.detach(), penalty, (logits(outputs).argmax(1) == y).sum(), len(y))

    def _descend(self, gradient: Tensor, lr: float) -> None:
        """SGD with (Nesterov) momentum, as torch.optim.SGD has it, whose import alone costs a second in every job."""
        momentum = self.regime.momentum
        velocity = self.progress.velocity.mul_(momentum).add_(gradient)
        change = gradient.add_(velocity, alpha=momentum) if self.regime.nesterov else velocity
        self.progress.trainable.add_(change, alpha=-lr)

    def _count(self, loss: Tensor, penalty: Tensor, right: Tensor, images: int) -> None:
        sums = self.progress.sums
        sums[:3] += torch.stack([loss * images, penalty * images, right]).double()
        sums[3] += (sums[0] < self.limit) & torch.isfinite(sums[1])  # once false it stays so, for the sums only grow

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


def _epoch(
    step: _Step, images: Images, transform: Transform, basis: Basis | None, seed: int, keeper: Keeper | None
) -> Row:
    """The rest of an epoch. The device is waited for once, at its end: whatever is random is drawn where it is used."""
    progress, size, device = step.progress, step.regime.batch_size, images.labels.device
    epoch = progress.epoch
    lr = step.regime.lr * step.regime.schedule(epoch, step.regime.epochs)
    order = torch.randperm(len(images), generator=stream(seed, "order", epoch)).to(device).split(size)
    coefficients = _coefficients(basis, len(order), stream(seed, "t", epoch)).to(progress.trainable)
    draws, noise = torch.Generator(device), torch.Generator(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for i in range(progress.step, len(order)):
            for purpose, generator in (("augmentation", draws), ("attack", noise)):
                generator.manual_seed(derive(seed, purpose, epoch, i))
            reseed(device, seed, "dropout", epoch, i)
            x, y = images.take(order[i], transform, draws)
            step(x, y, coefficients[i], lr, noise)
            progress.step = i + 1
            if keeper:
                keeper.keep(progress)
    *totals, sound = progress.sums.tolist()
    loss, penalty, right = (total / len(images) for total in totals)
    if sound < len(order) or not torch.isfinite(progress.trainable).all():
        large = f"{loss:.3g} nats on average, more than {EXPLODED:g}," if EXPLODED <= loss < inf else "not finite"
        raise Diverged(
            f"the loss is {large} in epoch {epoch + 1}, step {min(int(sound) + 1, len(order))} of {len(order)}, at "
            f"learning rate {lr:.4g}: lower `lr` of this regime, or look for non-finite weights in what it starts from"
        )
    return {"epoch": epoch + 1, "lr": lr, "loss": loss, "penalty": penalty, "accuracy": 100 * right}


def _coefficients(basis: Basis | None, count: int, generator: torch.Generator) -> Tensor:
    """The weights (count, n) of the control points at the t of every step of an epoch; (count, 0) for no curve."""
    ts = torch.rand(count, generator=generator, dtype=torch.float64)
    return vmap(basis)(ts) if basis else ts.new_empty(count, 0)


def _report(row: Row, epochs: int, *, images: int, seconds: float, trained: float) -> None:
    log.info(
        "epoch %d/%d  lr %.4f  loss %.4f  accuracy %.2f %%  %.0f images/s  %.0f s left",
        *(row["epoch"], epochs, row["lr"], row["loss"], row["accuracy"]),
        *(images * trained / seconds, (epochs - row["epoch"]) * seconds / trained),
    )
