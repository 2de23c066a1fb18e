"""Activation matching: units are matched by the correlation of their activations (the paper, section 4; Li et al.
2016). One linear assignment per group of neurons."""

import logging
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.activations import MomentsByTap, growing_moments
from neuralign.alignment.birkhoff import assign
from neuralign.alignment.moments import Moments
from neuralign.alignment.problem import Problem
from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.config.options import Count, Flag, Fraction
from neuralign.datasets.batches import Examples
from neuralign.datasets.images import Images
from neuralign.symmetry.permutations import Permutation
from neuralign.symmetry.tracing.taps import Tap

log = logging.getLogger(__name__)


def correlation(
    problem: Problem,
    *,
    images: Count = 10_000,
    batch_size: Count = 64,
    centred: Flag = True,
    read: Literal["post", "pre", "pooled"] = "post",
    balanced: Flag = False,
    streams: Literal["sum", "stem"] = "sum",
    largest: Count | None = None,
    stop: Fraction | None = None,
) -> dict[str, Tensor]:
    """The permutation that maximises the correlation of matched units, {group: (n,)}.

    Every image and every position is a sample. If a group is read at several activations, their correlations are
    summed. The paper's code has `centred: false` and `read: pooled` (there the third convolution) for GoogLeNet,
    `streams: stem` for ResNet32 and `largest: 32` for Tiny ImageNet. The fact `images` is the number of images used.

    Args:
        images: Number of training images, the first in file order.
        batch_size: Images per batch.
        centred: Whether means are subtracted (Pearson correlation) or not (cosine similarity).
        read: Whether activations are read after (`post`) or before (`pre`) the nonlinearity; `pooled` is `post`, but
            after a max-pool if nothing else uses the activation.
        balanced: Whether the same number of images of each class is used.
        streams: Whether a residual stream is read after every sum (`sum`), or only before the first one (`stem`);
            streams that have no activation before their first sum are always read after every sum.
        largest: Largest number of rows of feature maps. Larger maps lose every second row and column, repeatedly, where
            they are read, and the network computes on with the smaller maps; null: no limit.
        stop: Stop early, once at most this share of all units changes its match. Images come in a fixed random order,
            and matches are compared after 1, 2, 4, 8, ... batches; null: all images are used.
    """
    chosen = _balanced(problem.examples, images) if balanced else problem.examples.first(images)
    if stop is not None:
        chosen = chosen.sample(None, stream(0, "alignment"))  # so that the first of them are a random sample
    if balanced:
        problem.facts["labels"] = True
    subset, matches = replace(problem, examples=chosen), dict[str, Tensor]()
    first = None if stop is None else batch_size
    for count, moments in growing_moments(subset, first=first, batch_size=batch_size, read=read, largest=largest):
        problem.facts["images"], previous = count, matches
        matches = {group: assign(_score(taps, centred, streams)) for group, taps in moments.items()}
        if stop is not None and previous and _changed_share(previous, matches) <= stop:
            break
    if centred:
        _warn_of_unresolved_units(moments)
    return matches


def _warn_of_unresolved_units(moments: MomentsByTap) -> None:
    """Log a warning for each group with units that are not zero, but vary too little for a correlation."""
    for group, taps in moments.items():
        counts = torch.stack([m.unresolved() for m in taps.values()]).all(0).sum(1).tolist()
        if any(counts):
            log.warning(
                "group %r: %d units of the target and %d of the source, of %d, vary by no more than rounding (a "
                "constant, or an offset too large for their precision); their matches are arbitrary",
                group,
                *counts,
                next(iter(taps.values())).units,
            )


def _changed_share(before: Permutation, after: Permutation) -> float:
    """The share of all units whose matches differ."""
    changed = sum(int((match != before[group]).sum()) for group, match in after.items())
    return changed / max(1, sum(map(len, after.values())))


def _score(taps: dict[Tap, Moments], centred: bool, streams: str) -> Tensor:
    """(n, n): the correlation of each unit of the target with each of the source, summed over activations."""
    stem = {tap: m for tap, m in taps.items() if not tap.summed} if streams == "stem" else {}
    return sum((m.correlation(centred) for m in (stem or taps).values()), torch.tensor(0.0))


def _balanced(examples: Examples, count: int) -> Images:
    """Up to `count` images, equally many of each class. Raises UserError for examples that are no labelled images."""
    if not isinstance(examples, Images):
        raise UserError("balanced: found true; only labelled images have classes, so false is needed")
    return examples.balanced(count)
