"""The time of a training step in a reduced precision and in float32, measured before a training begins.

Not every machine is faster in a reduced precision.
"""

import logging
import time
from statistics import median

import torch
from torch import Tensor

from neuralign.common.seeding import preserved_generators
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State, buffers, criterion, parameters, preserved_modes, trainable
from neuralign.training.progress import Regime, cast

log = logging.getLogger(__name__)

FIRST = 8  # images of the first steps, from whose time the batch size of the others is chosen
BUDGET = 2.0  # seconds for all other steps
ROUNDS = 3  # steps in each precision, of which the median is taken


def report_speed(model: Model, images: Images, regime: Regime) -> None:
    """Log the time of a step in the regime's precision and in float32, as a warning if float32 is faster.

    If the regime trains in float32, nothing is measured. The model and the generators are left unchanged.
    """
    if regime.precision == "float32":
        return
    size, full, reduced = compare(model, images, regime.batch_size, regime.precision)
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


def compare(model: Model, images: Images, batch_size: int, precision: str) -> tuple[int, float, float]:
    """The number of images per step, and the seconds of a step in float32 and in `precision`.

    These are medians of ROUNDS alternating steps, or of fewer if they exceed the BUDGET.
    """
    precisions, state = ("float32", precision), {**parameters(model.network), **buffers(model.network)}
    with preserved_generators(images.labels.device), preserved_modes(model.network):
        model.network.train()

        def pair(size: int) -> tuple[float, ...]:
            return tuple(_seconds(model, state, images, size, dtype) for dtype in precisions)

        first = min(FIRST, batch_size)
        cold = pair(first)  # an upper limit, as it includes the warm-up
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
    with cast(pixels.device, precision):
        loss = criterion(model(copies, pixels), labels)
    torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    _synchronise(pixels)
    return time.perf_counter() - start


def _synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
