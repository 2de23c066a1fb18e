"""Correlation of post-activations (the paper, section 4; Li et al. 2016): one linear assignment per group."""

import torch
from torch import Tensor

from neuralign.align import Problem, activations, assign
from neuralign.moments import Moments
from neuralign.options import Count, Flag
from neuralign.tracing import Tap


def correlation(
    problem: Problem, *, images: Count = 10_000, batch_size: Count = 500, centred: Flag = True
) -> dict[str, Tensor]:
    """The permutation whose matched units correlate best on the first `images` images; {group: (n,)}.

    Every image and every position is a sample. A group that several activations carry sums their correlations.
    `centred: false` takes the cosine of the raw activations instead, as the paper's code does for GoogLeNet.
    """
    found = correlations(problem, images=images, batch_size=batch_size, centred=centred)
    return {group: assign(sum(matrices.values(), torch.tensor(0.0))) for group, matrices in found.items()}


def correlations(
    problem: Problem, *, images: int | None = None, batch_size: int = 500, centred: bool = True
) -> dict[str, dict[Tap, Tensor]]:
    """{group: {tap: (n, n) correlation of target's units with source's}} from one pass over the images.

    Memory does not grow with the number of images: only streamed moments are kept.
    """
    taps, sizes = problem.trace.taps, problem.trace.spec.sizes
    moments = {tap: Moments(sizes[group]) for group, found in taps.items() for tap in found}
    for target, source in activations(problem, batch_size, images):
        for tap, running in moments.items():
            running.add(*(_samples(side[tap.node], tap.start, running.units) for side in (target, source)))
    return {group: {tap: moments[tap].correlation(centred) for tap in found} for group, found in taps.items()}


def _samples(activation: Tensor, start: int, size: int) -> Tensor:
    """(images * positions, units): free where the activation lies channels-last in memory."""
    return activation[:, start : start + size].movedim(1, -1).reshape(-1, size)
