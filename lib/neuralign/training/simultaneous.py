"""Several trainings in one process. On a GPU their kernels run at the same time; each gives the bits it gives alone."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from neuralign.common.seeding import aside, global_generator
from neuralign.datasets.images import as_float
from neuralign.training.loop import Training
from neuralign.training.progress import Diverged, Progress


def fit_together(trainings: Sequence[Training]) -> list[Progress | Diverged]:
    """The `Progress` of every training, complete; of one that diverges its `Diverged`, while the others go on.

    They take turns, step by step, each on a CUDA stream of its own. On a GPU, networks that draw random numbers
    themselves, as dropout does, are trained one after another: recorded steps share the device's generator.
    """
    device = trainings[0].device
    if len(trainings) > 1 and device.type == "cuda" and _draws(trainings[0]):
        return [result for training in trainings for result in fit_together([training])]
    outside = torch.cuda.current_stream(device) if device.type == "cuda" else None
    streams = [torch.cuda.Stream(device) if outside else None for _ in trainings]
    for stream in streams:
        if stream and outside:
            stream.wait_stream(outside)
    with aside(device):
        results = _take_turns([t.steps() for t in trainings], streams)
    for stream in streams:
        if stream and outside:
            outside.wait_stream(stream)
    return [results.get(i, training.progress) for i, training in enumerate(trainings)]


def _take_turns(
    trainings: Sequence[Iterator[None]], streams: Sequence[torch.cuda.Stream | None]
) -> dict[int, Diverged]:
    """Run all to their ends, a step of each in turn on its stream; those that have diverged, by their places."""
    diverged: dict[int, Diverged] = {}
    live = dict(enumerate(trainings))
    while live:
        for i, steps in list(live.items()):
            try:
                with _on(streams[i]):
                    next(steps)
            except StopIteration:
                del live[i]
            except Diverged as error:
                diverged[i] = error
                del live[i]
    return diverged


def unless_diverged(jobs: Sequence[Any], results: Sequence[Progress | Diverged]) -> Iterator[tuple[Any, Progress]]:
    """Jobs with what `fit_together` made of them, but for those that diverged; at the end raises for the first job."""
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Progress):
            yield job, result
    if isinstance(results[0], Diverged):
        raise results[0]


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    return torch.cuda.stream(stream) if stream else nullcontext()


def _draws(training: Training) -> bool:
    """Whether the network of a training draws from the device's generator, found by a pass on two images."""
    generator, model = global_generator(training.device), training.model
    with aside(training.device), torch.no_grad():
        before = generator.get_state()
        model.network.train()
        model(training.start(), as_float(training.images.pixels[:2]))
        return not torch.equal(before, generator.get_state())
