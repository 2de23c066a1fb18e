"""The one training loop. Endpoints and curves differ only in `sample`, standard and robust models only in `attack`."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuralign.curves import Basis
from neuralign.descent import Stack, coefficients_at
from neuralign.descent import epoch as descend
from neuralign.images import Images, Transform, as_float
from neuralign.networks import Model
from neuralign.parameters import Layout
from neuralign.progress import Attack, Constraint, Diverged, Keeper, Progress, Regime, Row, Sample, Task
from neuralign.seeding import aside, global_generator, stream

__all__ = ["Attack", "Diverged", "Keeper", "Progress", "Regime", "Sample", "Task"]
__all__ += ["fit", "fit_together", "unless_diverged"]

log = logging.getLogger(__name__)


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


def unless_diverged(jobs: Sequence[Any], results: Sequence[Progress | Diverged]) -> Iterator[tuple[Any, Progress]]:
    """Jobs with what `fit_together` made of them, but for those that diverged; at the end raises for the first job."""
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Progress):
            yield job, result
    if isinstance(results[0], Diverged):
        raise results[0]


def _is_random(model: Model, task: Task, layout: Layout, images: Images) -> bool:
    """Whether the network draws random numbers in training, as dropout does."""
    home = global_generator(images.labels.device)
    with aside(images.labels.device), torch.no_grad():
        before = home.get_state()
        model.network.train()
        buffers = {name: b.clone() for name, b in task.buffers.items()}
        flat = task.sample(task.trainable, coefficients_at(task.basis, 1, stream(0)).to(task.trainable)[0])
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
        stack = Stack(model, [tasks[i] for i in live], list(live.values()), layout, regime, attack, len(images))
        rows = descend(stack, images, transform, epoch)
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


def _report(row: Row, epochs: int, *, speed: float, left: float) -> None:
    log.info(
        "epoch %d/%d  lr %.4f  loss %.4f  accuracy %.2f %%  %.0f images/s  %.0f s left",
        *(row["epoch"], epochs, row["lr"], row["loss"], row["accuracy"], speed, left),
    )
