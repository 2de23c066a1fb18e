"""Runs several trainings in one process, step by step in turn; on a GPU their kernels run concurrently.

Each training gives the same bits as alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from neuralign.common.seeding import global_generator, preserved_generators
from neuralign.training.cuda_graphs import side_streams
from neuralign.training.loop import Training
from neuralign.training.progress import Diverged, Progress
from neuralign.training.step_time import report_speed


def fit_together(trainings: Sequence[Training]) -> list[Progress | Diverged]:
    """Run all trainings to their ends; return the `Progress` of each, or its error if it diverged.

    They take turns step by step, on a GPU each on its own CUDA stream. There, networks with random layers such as
    dropout are trained one after another instead: their recorded steps would share the device's generator. All must be
    on the same device and, as far as random layers go, have the same network.
    """
    device = trainings[0].device
    if len(trainings) > 1 and device.type == "cuda" and _draws_random_numbers(trainings[0]):
        return [result for training in trainings for result in fit_together([training])]
    with preserved_generators(device), side_streams(device, len(trainings)) as streams:
        diverged = _take_turns([t.steps() for t in trainings], streams)
    return [diverged.get(i, training.progress) for i, training in enumerate(trainings)]


def _take_turns(
    steps_of_trainings: Sequence[Iterator[None]], streams: Sequence[AbstractContextManager[Any]]
) -> dict[int, Diverged]:
    """Run the steps of all trainings in turn, each on its stream; return {position: error} of those that diverge."""
    diverged: dict[int, Diverged] = {}
    running = dict(enumerate(steps_of_trainings))
    while running:
        for i, steps in list(running.items()):
            try:
                with streams[i]:
                    next(steps)
            except StopIteration:
                del running[i]
            except Diverged as error:
                diverged[i] = error
                del running[i]
    return diverged


def train_together(trainings: Sequence[Training]) -> Iterator[tuple[int, Progress]]:
    """Run all trainings with `fit_together`; (position, its `Progress`) of each that did not diverge.

    Where several processes train one model together, only the first one gets it: it writes the results. The speed of a
    step is reported before. If the first training, for which the process was started, has diverged, its
    error is raised after all others have been yielded, so that the caller can save those.
    """
    first = trainings[0]
    report_speed(first.model, first.examples, first.regime, first.objective)
    results = fit_together(trainings)
    if first.processes.leads:
        yield from ((i, result) for i, result in enumerate(results) if isinstance(result, Progress))
    if isinstance(results[0], Diverged):
        raise results[0]


def _draws_random_numbers(training: Training) -> bool:
    """Whether the network draws from the device's generator in a pass on two examples in training mode."""
    generator, model = global_generator(training.device), training.model
    with preserved_generators(training.device), torch.no_grad():
        before = generator.get_state()
        model.network.train()
        model(training.initial_state(), next(training.examples.batches(2))[0])
        return not torch.equal(before, generator.get_state())
