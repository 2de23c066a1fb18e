"""Correlation of activations (the paper, section 4; Li et al. 2016): one linear assignment per group."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.align import Problem, activations, assign
from neuralign.moments import Moments
from neuralign.options import Count, Flag
from neuralign.tracing import Tap


def correlation(
    problem: Problem,
    *,
    images: Count = 10_000,
    batch_size: Count = 500,
    centred: Flag = True,
    read: Literal["post", "pre"] = "post",
    balanced: Flag = False,
    streams: Literal["sum", "stem"] = "sum",
    largest: Count | None = None,
) -> dict[str, Tensor]:
    """The permutation whose matched units correlate best on `images` training images; {group: (n,)}.

    Every image and every position is a sample, read after (`post`) or before (`pre`) the nonlinearity. A group that
    several activations carry sums their correlations. Of the paper's code: `centred: false` takes the cosine of the
    raw activations (its GoogLeNet), `streams: stem` reads a residual stream that begins before any sum only there
    (its ResNet32), `largest: 32` halves larger maps and goes on with the halves (its Tiny ImageNet), and images are the
    first in file order unless `balanced` takes equally many of each class.
    """
    chosen = problem.images.balanced(images) if balanced else problem.images.first(images)
    found = correlations(
        replace(problem, images=chosen), batch_size=batch_size, centred=centred, read=read, largest=largest
    )
    if streams == "stem":
        found = {g: {t: m for t, m in taps.items() if not t.summed} or taps for g, taps in found.items()}
    return {group: assign(sum(matrices.values(), torch.tensor(0.0))) for group, matrices in found.items()}


def correlations(
    problem: Problem,
    *,
    batch_size: int = 500,
    centred: bool = True,
    read: str = "post",
    largest: int | None = None,
) -> dict[str, dict[Tap, Tensor]]:
    """{group: {tap: (n, n) correlation of target's units with source's}} from one pass over the problem's images."""
    found = moments(problem, batch_size=batch_size, read=read, largest=largest)
    return {group: {tap: m.correlation(centred) for tap, m in taps.items()} for group, taps in found.items()}


def moments(
    problem: Problem, *, batch_size: int = 500, read: str = "post", largest: int | None = None
) -> dict[str, dict[Tap, Moments]]:
    """{group: {tap: moments of target's and source's units}} from one pass over the problem's images.

    Memory does not grow with the number of images: only streamed moments are kept.
    """
    taps, sizes = problem.trace.before if read == "pre" else problem.trace.taps, problem.trace.spec.sizes
    found = {group: {tap: Moments(sizes[group]) for tap in where} for group, where in taps.items()}
    for target, source in activations(problem, taps, batch_size, largest=largest):
        for running in found.values():
            for tap, moment in running.items():
                moment.add(*(_samples(side[tap.node], tap.start, moment.units) for side in (target, source)))
    return found


def _samples(activation: Tensor, start: int, size: int) -> Tensor:
    """(images * positions, units): free where the activation lies channels-last in memory."""
    return activation[:, start : start + size].movedim(1, -1).reshape(-1, size)
