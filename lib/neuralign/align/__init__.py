"""Alignment: find the permutation of `source`'s neurons that fits `target`'s.

A plug-in of this folder is `name(problem, *, ...options) -> {group: index}`; `certify` refuses what does not leave the
network's function unchanged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuralign.birkhoff import assign
from neuralign.certificate import TOLERANCE, CertificateError, demand, differences
from neuralign.images import Images, Transform, as_is
from neuralign.moments import Moments
from neuralign.networks import Model, State
from neuralign.seeding import stream
from neuralign.symmetry import Permutation, check
from neuralign.tracing import Tap, Taps, Trace
from neuralign.tracing.running import Certain
from neuralign.training import Attack

__all__ = ["CertificateError", "Problem", "activations", "assign", "certify", "correlations", "unit_moments"]


@dataclass(frozen=True)
class Problem:
    model: Model
    trace: Trace
    target: State
    source: State
    images: Images  # what a method may look at: pixels as they are,
    transform: Transform = as_is  # or augmented as in training
    start: Permutation | None = None  # the permutation to improve on; None: the identity
    attack: Attack | None = None  # how the networks were attacked in training
    facts: dict[str, Any] = field(default_factory=dict)  # what a method found out besides, for the record


def activations(
    problem: Problem, taps: Taps, batch_size: int, *, largest: int | None = None
) -> Iterator[tuple[dict[str, Tensor], ...]]:
    """Batch by batch, the tapped activations of target and source in evaluation mode: {node: (n, c, ...)} each.

    Where the problem has an attack, either network sees the images attacked against itself.
    """
    probe, names = problem.trace.probe(taps, largest=largest)
    noise = stream(0, "activations", device=problem.images.labels.device)
    for pixels, labels in problem.images.batches(batch_size):
        yield tuple(
            dict(zip(names, _probed(problem, probe, state, pixels, labels, noise), strict=True))
            for state in (problem.target, problem.source)
        )


def _probed(
    problem: Problem, probe: nn.Module, state: State, pixels: Tensor, labels: Tensor, noise: torch.Generator
) -> tuple[Tensor, ...]:
    if problem.attack:
        problem.model.network.eval()
        pixels = problem.attack(lambda x: problem.model(state, x), pixels, labels, noise)
    with torch.no_grad():
        return functional_call(probe, dict(state), (problem.model.normalise(pixels),))


def correlations(
    problem: Problem,
    *,
    batch_size: int = 500,
    centred: bool = True,
    read: str = "post",
    largest: int | None = None,
) -> dict[str, dict[Tap, Tensor]]:
    """{group: {tap: (n, n) correlation of target's units with source's}} from one pass over the problem's images."""
    found = unit_moments(problem, batch_size=batch_size, read=read, largest=largest)
    return {group: {tap: m.correlation(centred) for tap, m in taps.items()} for group, taps in found.items()}


def unit_moments(
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


def certify(problem: Problem, permutation: Permutation, *, images: int = 32, tolerance: float = TOLERANCE) -> float:
    """The largest change of the source's outputs and gradients under `permutation`, in float64 on real images.

    As a share of their size, of all heads as in training, and of the logits in evaluation mode. Raises
    `CertificateError` if it exceeds `tolerance`, and ValueError if `permutation` is not admissible.
    """
    trace, network = problem.trace, problem.model.network
    check(trace.spec, permutation)
    model = Model(network, problem.model.mean.double(), problem.model.std.double())
    inputs = model.normalise(next(islice(problem.images.batches(images), 1))[0].double())
    network.eval()
    with Certain():
        found = [differences(n, trace.spec, permutation, problem.source, inputs) for n in (network, trace.network)]
    return max(demand(errors, tolerance, len(inputs)) for errors in found)
