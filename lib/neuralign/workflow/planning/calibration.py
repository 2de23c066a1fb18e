"""Measure seconds per forward pass on this machine, and count the parameters of networks; under a minute in all."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralign.datasets.arrays import Arrays
from neuralign.datasets.batches import Examples, call
from neuralign.datasets.images import Images
from neuralign.evaluation.along_curve import measure
from neuralign.networks.model import Model, buffers, build, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.setup import device
from neuralign.training import augmentation
from neuralign.training.loop import Training, fit, objective_of
from neuralign.training.progress import Regime
from neuralign.workflow.planning.costs import STEP, TimedTraining, network_key, training_key
from neuralign.workflow.running.notes import processor

TARGET_SECONDS = 1.5  # how long one measurement shall take on a CPU
STEPS = 50  # of one measurement, on a CPU at most


def calibrate(trainings: Iterable[TimedTraining]) -> dict[str, Any]:
    """{device, networks: {`network_key`: {parameters, buffers, activations, train, forward}}}.

    `train` (or, for example, `train bfloat16`) and `forward` are seconds per image and forward pass, in a training and
    in an evaluation. Of networks that differ only in the number of classes, one is timed.
    """
    networks: dict[str, Any] = {}
    timings: dict[str, dict[str, float]] = {}
    with _threads_of_a_job() as threads:
        for training in trainings:
            network, sizes = training.network, training.sizes
            model = build(network, classes=sizes.classes, channels=sizes.channels).to(device())
            if training.arrays is not None:  # only images are normalised
                model = Model(model.network, None, None)
            without_classes = json.dumps([dict(network), sizes.channels, sizes.side])
            timing = timings.setdefault(without_classes, {})
            if training_key(training.precision) not in timing:
                timing |= _seconds(model, training)
            networks[network_key(network, sizes)] = _counts(model, _some_examples(training, 1)) | timing
    cpu = f"{processor()}, {threads} thread{'s' * (threads != 1)}"
    return {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu, "networks": networks}


@contextmanager
def _threads_of_a_job() -> Iterator[int]:
    """A block in which torch has as many threads as a job of the workflow; yields how many."""
    before, threads = torch.get_num_threads(), int(os.environ.get("OMP_NUM_THREADS") or 1)
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def _counts(model: Model, example: Examples) -> dict[str, int]:
    """How many numbers there are in parameters, in buffers, and in the outputs of all layers for one example."""
    outputs: list[int] = []
    leaves = [m for m in model.network.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(lambda _, __, y: outputs.append(y[0].numel())) for m in leaves]
    model.network.eval()
    inputs, _ = next(example.batches(1))
    with torch.no_grad():
        call(model.network, inputs)
    for hook in hooks:
        hook.remove()
    return {
        "parameters": sum(p.numel() for p in parameters(model.network).values()),
        "buffers": sum(b.numel() for b in buffers(model.network).values()),
        "activations": sum(outputs),
    }


def _seconds(model: Model, training: TimedTraining) -> dict[str, float]:
    """Seconds per example and forward pass, in training with this precision and in evaluation (`forward`)."""
    start, stored = parameters(model.network), buffers(model.network)
    layout, objective, precision = FlatLayout.of(start), objective_of(training.objective), training.precision

    def train(examples: Examples, size: int) -> None:
        regime = Regime(1, size, 1e-6, 0.9, 0.0, lambda epoch, epochs: 1.0, precision=precision)
        transform, flat = augmentation.pipeline(training.augment), layout.flatten(start)
        trained = model, flat, _same, layout, stored, examples, regime
        fit(Training(*trained, objective=objective, transform=transform, seed=0))

    def forward(examples: Examples, size: int) -> None:
        state, generator = start | stored, torch.Generator()
        measure(model, state, examples, batch_size=size, attack=None, generator=generator, objective=objective)

    some_examples = partial(_some_examples, training)
    in_training = _seconds_per_example(train, some_examples, training.batch_size) / STEP
    in_evaluation = _seconds_per_example(forward, some_examples, training.batch_size)
    return {training_key(precision): in_training, "forward": in_evaluation}


def _same(weights: Tensor, _: Tensor) -> Tensor:
    """The weights themselves: the network that is trained is not a point of a curve."""
    return weights


def _seconds_per_example(
    run: Callable[[Examples, int], None], examples: Callable[[int], Examples], batch_size: int
) -> float:
    """Seconds per example of `run(examples, batch size)`; `examples`: number -> as many examples.

    On a GPU this is the difference of two runs, because each run first records its step, which takes as long as many
    steps. On a CPU a small batch says how large the batches can be, up to `batch_size`, and how many there can be for
    the measurement to take about `TARGET_SECONDS`. A run that warms up comes before each of them.
    """

    def seconds(steps: int, size: int) -> float:
        timed_examples = examples(size * steps)
        began = time.perf_counter()
        run(timed_examples, size)
        return time.perf_counter() - began

    if device().type == "cuda":
        seconds(1, batch_size)
        return (seconds(1 + STEPS, batch_size) - seconds(1, batch_size)) / (STEPS * batch_size)
    small = min(batch_size, 8)
    seconds(1, small)
    affordable = int(small * TARGET_SECONDS / seconds(1, small))
    size = max(small, min(batch_size, affordable // 2))
    steps = max(1, min(STEPS, affordable // size))
    seconds(1, size)
    return seconds(steps, size) / (steps * size)


def _some_examples(training: TimedTraining, count: int) -> Examples:
    """So many examples for this training: those of its arrays again and again, or random images."""
    if training.arrays is not None:
        index = np.arange(count) % len(training.arrays.inputs)
        inputs, targets = (torch.from_numpy(a[index]) for a in (training.arrays.inputs, training.arrays.targets))
        return Arrays(inputs, targets).to(device())
    sizes = training.sizes
    shape = (count, sizes.channels, sizes.side, sizes.side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=device())
    return Images(pixels, torch.randint(sizes.classes, shape[:1], device=device()))
