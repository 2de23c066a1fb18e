"""The one training loop. Endpoints and curves differ only in `sample`, standard and robust models only in `attack`."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from neuralign.curves import Basis
from neuralign.images import Images, Transform, as_float
from neuralign.networks import Model, criterion, logits
from neuralign.parameters import Layout
from neuralign.seeding import derive, reseed, stream

log = logging.getLogger(__name__)

Attack = Callable[[Callable, Tensor, Tensor, torch.Generator], Tensor]
Sample = Callable[[Tensor, Tensor], Tensor]
Constraint = Callable[[Tensor, float], None]
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
    """All that is needed to go on after a step, to the same bits."""

    trainable: Tensor
    velocity: Tensor
    buffers: dict[str, Tensor]
    epoch: int = 0  # complete epochs
    step: int = 0  # complete steps of the epoch after them
    history: list[Row] = field(default_factory=list)
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))  # of this epoch: see `_Stack`

    def finish(self, row: Row) -> None:
        """The epoch is complete."""
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()


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
    task = Task(trainable, sample, buffers, seed, basis, keeper, constrain)
    (result,) = fit_together(model, [task], layout, images, regime, transform=transform, attack=attack)
    if isinstance(result, Diverged):
        raise result
    return result


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


def fit_together(
    model: Model,
    tasks: Sequence[Task],
    layout: Layout,
    images: Images,
    regime: Regime,
    *,
    transform: Transform,
    attack: Attack | None = None,
) -> list[Progress | Diverged]:
    """What `fit` makes of every task, where possible all taking each step at once: the same draws, other rounding.

    A task that diverges ends as its `Diverged`, the others go on. One after another are trained those that were kept at
    different steps, that are attacked, or whose network draws random numbers of its own.
    """
    begun = [task.begin(images.labels.device) for task in tasks]
    same = len({(progress.epoch, progress.step) for progress in begun}) == 1
    if len(tasks) > 1 and (attack or not same or _is_random(model, tasks[0], layout, images)):
        return [
            _fit(model, [t], [p], layout, images, regime, transform, attack)[0]
            for t, p in zip(tasks, begun, strict=True)
        ]
    return _fit(model, tasks, begun, layout, images, regime, transform, attack)


def _is_random(model: Model, task: Task, layout: Layout, images: Images) -> bool:
    """Whether the network draws random numbers in training, as dropout does."""
    device = images.labels.device
    home = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        before = home.get_state()
        model.network.train()
        buffers = {name: b.clone() for name, b in task.buffers.items()}
        flat = task.sample(task.trainable, _coefficients(task.basis, 1, stream(0)).to(task.trainable)[0])
        model(layout.views(flat) | buffers, as_float(images.pixels[:2]))
        return not torch.equal(before, home.get_state())


def _fit(
    model: Model,
    tasks: Sequence[Task],
    begun: Sequence[Progress],
    layout: Layout,
    images: Images,
    regime: Regime,
    transform: Transform,
    attack: Attack | None,
) -> list[Progress | Diverged]:
    live = dict(enumerate(begun))
    results: dict[int, Progress | Diverged] = dict(live)
    epoch, step = begun[0].epoch, begun[0].step
    if epoch or step:
        log.info("resumed after epoch %d of %d, step %d", epoch, regime.epochs, step)
    began, done = time.monotonic(), epoch + step * regime.batch_size / len(images)
    model.network.train()
    while live and epoch < regime.epochs:
        stack = _Stack(model, [tasks[i] for i in live], list(live.values()), layout, regime, attack)
        rows = _epoch(stack, images, transform, epoch)
        epoch += 1
        for i, row in zip(list(live), rows, strict=True):
            if isinstance(row, Diverged):
                results[i] = row
                del live[i]
                continue
            live[i].finish(row)
            if keeper := tasks[i].keeper:
                keeper.keep(live[i])
            speed = len(images) * len(rows) * (epoch - done) / (time.monotonic() - began)
            _report(row, regime.epochs, speed=speed, left=(regime.epochs - epoch) * len(images) * len(rows) / speed)
    return list(results.values())


class _Stack:
    """Models that take a step at once, k of them. Their `progress` becomes views of what is stacked here.

    The sums of a progress are, over the images of this epoch so far, those of criterion and penalty, the number of
    right answers, and the number of steps before the first one whose loss is not finite. They stay on the device.
    """

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        members: Sequence[Progress],
        layout: Layout,
        regime: Regime,
        attack: Attack | None,
    ):
        self.model, self.tasks, self.members, self.layout = model, tasks, members, layout
        self.regime, self.attack = regime, attack
        self.trainable = torch.stack([p.trainable for p in members])  # (k, ...)
        self.velocity = torch.stack([p.velocity for p in members])
        self.sums = torch.stack([p.sums for p in members])  # (k, 4)
        self.buffers = {name: torch.stack([p.buffers[name] for p in members]) for name in members[0].buffers}
        for j, progress in enumerate(members):
            progress.trainable, progress.velocity, progress.sums = self.trainable[j], self.velocity[j], self.sums[j]
            progress.buffers = {name: b[j] for name, b in self.buffers.items()}

    def step(
        self, x: Tensor, y: Tensor, coefficients: Sequence[Tensor], lr: float, noise: Sequence[torch.Generator]
    ) -> None:
        """One step of every model, on pixels (k, b, c, h, w) and labels (k, b) of its own."""
        weights = self.trainable.detach().requires_grad_()  # the same memory, a new leaf
        samples = [t.sample(w, c) for t, w, c in zip(self.tasks, weights, coefficients, strict=True)]
        flat = torch.stack(samples)  # (k, d)
        if self.attack:
            x = self.attack(self._predictor(flat.detach()[0]), x[0], y[0], noise[0])[None]
        loss, right = self._forward(flat, x, y)  # (k,) each
        (slope,) = torch.autograd.grad(loss.sum(), flat)
        slope.add_(flat.detach(), alpha=self.regime.weight_decay)
        (gradient,) = torch.autograd.grad(flat, weights, slope)
        self._descend(gradient, lr)
        for task, progress in zip(self.tasks, self.members, strict=True):
            if task.constrain:
                task.constrain(progress.trainable, lr)
        penalty = self.regime.weight_decay / 2 * flat.detach().square().sum(1)
        images = y.shape[1]
        self.sums[:, :3] += torch.stack([loss.detach() * images, penalty * images, right], 1).double()
        self.sums[:, 3] += torch.isfinite(self.sums[:, :2].sum(1))  # once it is not finite it never is again

    def _forward(self, flat: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        def one(flat: Tensor, buffers: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.model({**self.layout.views(flat), **buffers}, x)
            return criterion(outputs, y), (logits(outputs).argmax(1) == y).sum()

        with self._precision(x.device):
            if len(self.members) > 1:
                return vmap(one)(flat, self.buffers, x, y)
            loss, right = one(flat[0], self.members[0].buffers, x[0], y[0])
            return loss[None], right[None]

    def _descend(self, gradient: Tensor, lr: float) -> None:
        """SGD with (Nesterov) momentum, as torch.optim.SGD has it, whose import alone costs a second in every job."""
        momentum = self.regime.momentum
        velocity = self.velocity.mul_(momentum).add_(gradient)
        change = gradient.add_(velocity, alpha=momentum) if self.regime.nesterov else velocity
        self.trainable.add_(change, alpha=-lr)

    def _predictor(self, flat: Tensor) -> Callable[[Tensor], Any]:
        state = self.layout.views(flat) | {name: b[0].clone() for name, b in self.buffers.items()}

        def predict(pixels: Tensor) -> Any:
            with self._precision(pixels.device):
                return self.model(state, pixels)

        return predict

    def _precision(self, device: torch.device) -> Any:
        if self.regime.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.regime.precision))


def _epoch(stack: _Stack, images: Images, transform: Transform, epoch: int) -> list[Row | Diverged]:
    """The rest of an epoch. The device is waited for once, at its end: whatever is random is drawn where it is used."""
    device, regime, seeds = images.labels.device, stack.regime, [task.seed for task in stack.tasks]
    lr = regime.lr * regime.schedule(epoch, regime.epochs)
    orders = [torch.randperm(len(images), generator=stream(seed, "order", epoch)).to(device) for seed in seeds]
    batches = list(zip(*(order.split(regime.batch_size) for order in orders), strict=True))
    coefficients = [
        _coefficients(task.basis, len(batches), stream(task.seed, "t", epoch)).to(task.trainable)
        for task in stack.tasks
    ]
    draws, noise = ([torch.Generator(device) for _ in seeds] for _ in range(2))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for i in range(stack.members[0].step, len(batches)):
            for seed, *generators in zip(seeds, draws, noise, strict=True):
                for purpose, generator in zip(("augmentation", "attack"), generators, strict=True):
                    generator.manual_seed(derive(seed, purpose, epoch, i))
            reseed(device, seeds[0], "dropout", epoch, i)
            taken = [images.take(index, transform, draw) for index, draw in zip(batches[i], draws, strict=True)]
            x, y = (torch.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*taken, strict=True))
            stack.step(x, y, [c[i] for c in coefficients], lr, noise)
            for task, progress in zip(stack.tasks, stack.members, strict=True):
                progress.step = i + 1
                if task.keeper:
                    task.keeper.keep(progress)
    return [_row(progress, epoch, len(batches), lr, len(images)) for progress in stack.members]


def _row(progress: Progress, epoch: int, steps: int, lr: float, images: int) -> Row | Diverged:
    *totals, finite = progress.sums.tolist()
    if finite < steps or not torch.isfinite(progress.trainable).all():
        return Diverged(
            f"the loss is not finite in epoch {epoch + 1}, step {min(int(finite) + 1, steps)} of {steps}, at learning "
            f"rate {lr:.4g}: lower `lr` of this regime, or look for non-finite weights in what it starts from"
        )
    loss, penalty, right = (total / images for total in totals)
    return {"epoch": epoch + 1, "lr": lr, "loss": loss, "penalty": penalty, "accuracy": 100 * right}


def _coefficients(basis: Basis | None, count: int, generator: torch.Generator) -> Tensor:
    """The weights (count, n) of the control points at the t of every step of an epoch; (count, 0) for no curve."""
    ts = torch.rand(count, generator=generator, dtype=torch.float64)
    return vmap(basis)(ts) if basis else ts.new_empty(count, 0)


def _report(row: Row, epochs: int, *, speed: float, left: float) -> None:
    log.info(
        "epoch %d/%d  lr %.4f  loss %.4f  accuracy %.2f %%  %.0f images/s  %.0f s left",
        *(row["epoch"], epochs, row["lr"], row["loss"], row["accuracy"], speed, left),
    )
