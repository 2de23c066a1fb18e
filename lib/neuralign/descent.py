"""Steps and epochs of stochastic gradient descent, of one model or of several at once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from neuralign.curves import Basis
from neuralign.images import Images, Transform
from neuralign.networks import Model, criterion, logits
from neuralign.parameters import Layout
from neuralign.progress import Attack, Diverged, Progress, Regime, Row, Task
from neuralign.seeding import aside, derive, reseed, stream

# Nats, as the mean of an epoch, from which a training has diverged. The criterion has an absolute scale: a network that
# guesses has log(classes), less than 10. A bound relative to the start would mean little, for curves start from good
# networks, bad inputs from a large loss. Single steps may be above; the penalty may be as large as `weight_decay` says.
EXPLODED = 1e4


class Stack:
    """Models that take a step at once, k of them. Their `progress` becomes views of what is stacked here.

    The sums of a progress are, over the images of this epoch so far, those of criterion and penalty, the number of
    right answers, and the number of steps before the first one whose loss is beyond all bounds or not finite. They stay
    on the device.
    """

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        members: Sequence[Progress],
        layout: Layout,
        regime: Regime,
        attack: Attack | None,
        images: int,
    ):
        self.limit = EXPLODED * images  # of the sum of the criterion over an epoch
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
        # once false it stays so, for the sums only grow
        self.sums[:, 3] += (self.sums[:, 0] < self.limit) & torch.isfinite(self.sums[:, 1])

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


def epoch(stack: Stack, images: Images, transform: Transform, number: int) -> list[Row | Diverged]:
    """The rest of an epoch. The device is waited for once, at its end: whatever is random is drawn where it is used."""
    device, regime, seeds = images.labels.device, stack.regime, [task.seed for task in stack.tasks]
    lr = regime.lr * regime.schedule(number, regime.epochs)
    orders = [torch.randperm(len(images), generator=stream(seed, "order", number)).to(device) for seed in seeds]
    batches = list(zip(*(order.split(regime.batch_size) for order in orders), strict=True))
    coefficients = [
        coefficients_at(task.basis, len(batches), stream(task.seed, "t", number)).to(task.trainable)
        for task in stack.tasks
    ]
    draws, noise = ([torch.Generator(device) for _ in seeds] for _ in range(2))
    with aside(device):
        for i in range(stack.members[0].step, len(batches)):
            for seed, *generators in zip(seeds, draws, noise, strict=True):
                for purpose, generator in zip(("augmentation", "attack"), generators, strict=True):
                    generator.manual_seed(derive(seed, purpose, number, i))
            reseed(device, seeds[0], "dropout", number, i)
            taken = [images.take(index, transform, draw) for index, draw in zip(batches[i], draws, strict=True)]
            x, y = (torch.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*taken, strict=True))
            stack.step(x, y, [c[i] for c in coefficients], lr, noise)
            for task, progress in zip(stack.tasks, stack.members, strict=True):
                progress.step = i + 1
                if task.keeper:
                    task.keeper.keep(progress)
    return [_row(progress, number, len(batches), lr, len(images)) for progress in stack.members]


def _row(progress: Progress, number: int, steps: int, lr: float, images: int) -> Row | Diverged:
    *totals, sound = progress.sums.tolist()
    loss, penalty, right = (total / images for total in totals)
    if sound < steps or not torch.isfinite(progress.trainable).all():
        large = f"{loss:.3g} nats on average, more than {EXPLODED:g}," if EXPLODED <= loss < inf else "not finite"
        return Diverged(
            f"the loss is {large} in epoch {number + 1}, step {min(int(sound) + 1, steps)} of {steps}, at learning "
            f"rate {lr:.4g}: lower `lr` of this regime, or look for non-finite weights in what it starts from"
        )
    return {"epoch": number + 1, "lr": lr, "loss": loss, "penalty": penalty, "accuracy": 100 * right}


def coefficients_at(basis: Basis | None, count: int, generator: torch.Generator) -> Tensor:
    """The weights (count, n) of the control points at the t of every step of an epoch; (count, 0) for no curve."""
    ts = torch.rand(count, generator=generator, dtype=torch.float64)
    return vmap(basis)(ts) if basis else ts.new_empty(count, 0)
