"""Measures before a training whether its steps are faster in a reduced precision than in float32 on this machine."""

import logging
import time
from statistics import median

import torch
from torch import Tensor

from neuralign.common.seeding import preserved_generators
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State, buffers, criterion, parameters, preserved_modes, trainable
from neuralign.training.progress import Regime, autocast

log = logging.getLogger(__name__)

FIRST = 8  # images in the first step of each precision, whose time says how many the others can have
BUDGET = 2.0  # seconds for all other steps
ROUNDS = 3  # steps in each precision, whose median time is returned


def report_speed(model: Model, images: Images, regime: Regime) -> None:
    """Log the time of a step in the regime's precision and in float32, as a warning if float32 is faster.

    Nothing is measured if the regime trains in float32. The model and the generators are left unchanged.
    """
    if regime.precision == "float32":
        return
    size, full, reduced = step_seconds(model, images, regime.batch_size, regime.precision)
    times = (
        f"{size} images forward and back: {reduced * 1e3:.3g} ms in {regime.precision}, {full * 1e3:.3g} ms in float32"
    )
    if reduced > full:
        log.warning(
            "%s: %s is %.1f times as slow as float32 on this machine, which may lack it; without "
            "`precision: %s` the regime would be faster here",
            *(times, regime.precision, reduced / full, regime.precision),
        )
    else:
        log.info("%s, %.1f times as fast", times, full / reduced)


def step_seconds(model: Model, images: Images, batch_size: int, precision: str) -> tuple[int, float, float]:
    """(images in a step, seconds of a step in float32, seconds in `precision`).

    A step has `batch_size` images, or fewer if these would take too long. The times are medians of ROUNDS steps in
    turn, or of fewer if they exceed the BUDGET.
    """
    precisions, state = ("float32", precision), {**parameters(model.network), **buffers(model.network)}
    with preserved_generators(images.labels.device), preserved_modes(model.network):
        model.network.train()

        def pair(size: int) -> tuple[float, ...]:
            return tuple(_seconds(model, state, images, size, dtype) for dtype in precisions)

        first = min(FIRST, batch_size)
        cold = pair(first)  # an upper limit of the time, as it includes the warm-up
        affordable = int(first * BUDGET / ROUNDS / sum(cold))
        size = max(first, min(batch_size, affordable, len(images)))
        steps = [pair(size)]
        while len(steps) < ROUNDS and sum(map(sum, steps)) < BUDGET:
            steps.append(pair(size))
    full, reduced = map(median, zip(*steps, strict=True))
    return size, full, reduced


def _seconds(model: Model, state: State, images: Images, size: int, precision: str) -> float:
    """The seconds of one forward and backward pass on the first `size` images."""
    leaves = {name: state[name].clone().requires_grad_() for name in trainable(model.network)}
    copies = {name: tensor.clone() for name, tensor in state.items()} | leaves
    pixels, labels = next(images.batches(size))
    _synchronise(pixels)
    start = time.perf_counter()
    with autocast(pixels.device, precision):
        loss = criterion(model(copies, pixels), labels)
    torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    _synchronise(pixels)
    return time.perf_counter() - start


def _synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
