"""Whether a precision pays on this machine: a few steps in it and in float32, measured before a training begins."""

import logging
import time
from statistics import median

import torch
from torch import Tensor

from neuralign.common.seeding import aside
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State, buffers, criterion, modes_kept, parameters, trainable
from neuralign.training.progress import Regime, cast

log = logging.getLogger(__name__)

FIRST = 8  # images of the first steps, which say how many there is patience for
PATIENCE = 2.0  # seconds that all steps after these are to take
ROUNDS = 3


def tell(model: Model, images: Images, regime: Regime) -> None:
    """Log what a step takes in the regime's precision and in float32, as a warning if float32 is faster.

    Nothing is measured for float32. The model, its modes and the random numbers of others are left as they were.
    """
    if regime.precision == "float32":
        return
    size, plain, other = compare(model, images, regime.batch_size, regime.precision)
    found = (
        f"{size} images forward and back: {other * 1e3:.3g} ms in {regime.precision}, {plain * 1e3:.3g} ms in float32"
    )
    if other > plain:
        log.warning(
            "%s: %s is %.1f times as slow as float32 on this machine, which may lack it; without "
            "`precision: %s` the regime would be faster here",
            *(found, regime.precision, other / plain, regime.precision),
        )
    else:
        log.info("%s, %.1f times as fast", found, plain / other)


def compare(model: Model, images: Images, batch_size: int, precision: str) -> tuple[int, float, float]:
    """How many images a step was measured with, and its seconds in float32 and in `precision`.

    Medians of 3 steps in turn, or of fewer where these take longer than there is patience for.
    """
    kinds, state = ("float32", precision), {**parameters(model.network), **buffers(model.network)}
    with aside(images.labels.device), modes_kept(model.network):
        model.network.train()

        def pair(size: int) -> tuple[float, ...]:
            return tuple(_seconds(model, state, images, size, kind) for kind in kinds)

        first = min(FIRST, batch_size)
        began = pair(first)  # cold, so an upper limit
        affordable = int(first * PATIENCE / ROUNDS / sum(began))
        size = max(first, min(batch_size, affordable, len(images)))
        steps = [pair(size)]
        while len(steps) < ROUNDS and sum(map(sum, steps)) < PATIENCE:
            steps.append(pair(size))
    plain, other = map(median, zip(*steps, strict=True))
    return size, plain, other


def _seconds(model: Model, state: State, images: Images, size: int, precision: str) -> float:
    """Seconds of one pass forward and back on the first `size` images."""
    leaves = {name: state[name].clone().requires_grad_() for name in trainable(model.network)}
    own = {name: tensor.clone() for name, tensor in state.items()} | leaves
    pixels, labels = next(images.batches(size))
    _wait(pixels)
    began = time.perf_counter()
    with cast(pixels.device, precision):
        loss = criterion(model(own, pixels), labels)
    torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    _wait(pixels)
    return time.perf_counter() - began


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
