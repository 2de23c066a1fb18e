"""Correlation of activations (the paper, section 4; Li et al. 2016): one linear assignment per group."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.align import Problem, assign, correlations
from neuralign.options import Count, Flag


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
