"""Measures before a training whether its steps are faster in a reduced precision than in float32 on this machine."""

import logging
import time
from statistics import median

import torch

from neuralign.common.seeding import preserved_generators
from neuralign.datasets.batches import Examples
from neuralign.networks.model import Model, State, buffers, parameters, preserved_modes, trainable
from neuralign.training.objective import Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.progress import Regime, autocast

log = logging.getLogger(__name__)

FIRST = 8  # examples in the first step of each precision, whose time says how many the others can have
BUDGET = 2.0  # seconds for all other steps
ROUNDS = 3  # steps in each precision, whose median time is returned


def report_speed(model: Model, examples: Examples, regime: Regime, objective: Objective = CLASSIFICATION) -> None:
    """Log the time of a step in the regime's precision and in float32, as a warning if float32 is faster.

    Nothing is measured if the regime trains in float32. The model and the generators are left unchanged.
    """
    if regime.precision == "float32":
        return
    size, full, reduced = step_seconds(model, examples, regime.batch_size, regime.precision, objective)
    both = f"{reduced * 1e3:.3g} ms in {regime.precision}, {full * 1e3:.3g} ms in float32"
    times = f"{size} {examples.noun} forward and back: {both}"
    if reduced > full:
        log.warning(
            "%s: %s is %.1f times as slow as float32 on this machine, which may lack it; without "
            "`precision: %s` the regime would be faster here",
            *(times, regime.precision, reduced / full, regime.precision),
        )
    else:
        log.info("%s, %.1f times as fast", times, full / reduced)


def step_seconds(
    model: Model, examples: Examples, batch_size: int, precision: str, objective: Objective = CLASSIFICATION
) -> tuple[int, float, float]:
    """(examples in a step, seconds of a step in float32, seconds in `precision`).

    A step has `batch_size` examples, or fewer if these would take too long. The times are medians of ROUNDS steps in
    turn, or of fewer if they exceed the BUDGET.
    """
    precisions, state = ("float32", precision), {**parameters(model.network), **buffers(model.network)}
    with preserved_generators(examples.device), preserved_modes(model.network):
        model.network.train()

        def pair(size: int) -> tuple[float, ...]:
            return tuple(_seconds(model, state, examples, objective, size, dtype) for dtype in precisions)

        first = min(FIRST, batch_size)
        cold = pair(first)  # an upper limit of the time, as it includes the warm-up
        affordable = int(first * BUDGET / ROUNDS / sum(cold))
        size = max(first, min(batch_size, affordable, len(examples)))
        steps = [pair(size)]
        while len(steps) < ROUNDS and sum(map(sum, steps)) < BUDGET:
            steps.append(pair(size))
    full, reduced = map(median, zip(*steps, strict=True))
    return size, full, reduced


def _seconds(model: Model, state: State, examples: Examples, objective: Objective, size: int, precision: str) -> float:
    """The seconds of one forward and backward pass on the first `size` examples."""
    leaves = {name: state[name].clone().requires_grad_() for name in trainable(model.network)}
    copies = {name: tensor.clone() for name, tensor in state.items()} | leaves
    inputs, targets = next(examples.batches(size))
    _synchronise(examples.device)
    start = time.perf_counter()
    with autocast(examples.device, precision):
        loss = objective.loss(model(copies, inputs), targets)
    torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    _synchronise(examples.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
