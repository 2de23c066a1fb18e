"""Alignment: find the permutation of `source`'s neurons that fits `target`'s.

A plug-in of this folder is `name(problem, *, ...options) -> {group: index}`; `certify` refuses what does not leave the
network's function unchanged.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuralign.birkhoff import assign
from neuralign.certificate import TOLERANCE, CertificateError, demand, differences
from neuralign.folding import Uncapturable, capture, fold, overwrite
from neuralign.images import Images, Transform, as_is
from neuralign.moments import Moments
from neuralign.networks import Model, State
from neuralign.refusals import Refused
from neuralign.seeding import stream
from neuralign.symmetry import Permutation, check
from neuralign.tracing import Tap, Taps, Trace
from neuralign.tracing.running import Certain, Unread
from neuralign.tracing.taps import ACTIVATIONS
from neuralign.training import Attack, Keeper

__all__ = ["CertificateError", "Problem", "activations", "assign", "certify", "correlations", "unit_moments"]

BATCH = 64  # images whose activations stay near the CPU's caches: twice as many are slower, half as many no faster


def _nowhere(training: str) -> Keeper | None:
    return None


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
    keeper: Callable[[str], Keeper | None] = _nowhere  # where the progress of a training of this name is kept
    facts: dict[str, Any] = field(default_factory=dict)  # what a method found out besides, for the record


def activations(
    problem: Problem, taps: Taps, batch_size: int, *, largest: int | None = None
) -> Iterator[tuple[dict[str, Tensor], ...]]:
    """Batch by batch, the tapped activations of target and source in evaluation mode: {node: (n, c, ...)} each.

    Where the problem has an attack, either network sees the images attacked against itself.
    """
    ends = problem.target, problem.source
    probe, names = problem.trace.probe(taps, largest=largest)
    probe, plains = folded_probe(problem, taps, largest) or (probe, ends)
    sides = list(zip(ends, map(_channels_last, plains), strict=True))
    noise = stream(0, "activations", device=problem.images.labels.device)

    def seen(state: State, plain: State, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if problem.attack:
            problem.model.network.eval()
            pixels = problem.attack(lambda x: problem.model(state, x), pixels, labels, noise)
        with torch.no_grad():
            found = functional_call(probe, dict(plain), (problem.model.normalise(pixels),))
        return dict(zip(names, found, strict=True))

    for pixels, labels in problem.images.batches(batch_size):
        yield tuple(seen(*side, pixels, labels) for side in sides)


def folded_probe(problem: Problem, taps: Taps, largest: int | None) -> tuple[nn.Module, list[State]] | None:
    """A cheaper probe and the states of both ends for it: the network without batch norms. None where there is none,
    or where it does not read the same: folding keeps the order of nonlinearities, not that of other operations.
    """
    trace = problem.trace
    probe, names = trace.probe(taps, largest=largest)
    if any(trace.reads[name].operation not in ACTIVATIONS for name in names):
        return None
    try:
        folded = fold(capture(trace.network.network))
    except Uncapturable:
        return None
    if largest is None:  # what works in place cannot be halved
        overwrite(folded.graph)
    plain, _ = trace.probe(taps, largest=largest, network=folded.graph)
    precise = {n: t.double() if t.is_floating_point() else t for n, t in problem.target.items()}
    pixels, _ = next(problem.images.batches(2))
    inputs = ((pixels.double() - problem.model.mean.double()) / problem.model.std.double(),)
    try:
        with torch.no_grad():
            expected = functional_call(probe, precise, inputs)
            found = functional_call(plain, folded.state(precise), inputs)
    except Unread:
        return None
    pairs = zip(found, expected, strict=True)
    if not all(a.shape == b.shape and (a - b).abs().max() <= TOLERANCE * b.abs().max() for a, b in pairs):
        return None
    return plain, [folded.state(state) for state in (problem.target, problem.source)]


def _channels_last(state: State) -> State:
    """Kernels laid out as the images are, which spares a conversion in every convolution."""
    return {n: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for n, t in state.items()}


def correlations(
    problem: Problem,
    *,
    batch_size: int = BATCH,
    centred: bool = True,
    read: str = "post",
    largest: int | None = None,
) -> dict[str, dict[Tap, Tensor]]:
    """{group: {tap: (n, n) correlation of target's units with source's}} from one pass over the problem's images."""
    found = unit_moments(problem, batch_size=batch_size, read=read, largest=largest)
    return {group: {tap: m.correlation(centred) for tap, m in taps.items()} for group, taps in found.items()}


def unit_moments(
    problem: Problem, *, batch_size: int = BATCH, read: str = "post", largest: int | None = None
) -> dict[str, dict[Tap, Moments]]:
    """{group: {tap: moments of target's and source's units}} from one pass over the problem's images."""
    ((_, found),) = deque(growing_moments(problem, batch_size=batch_size, read=read, largest=largest), maxlen=1)
    return found


def growing_moments(
    problem: Problem, *, batch_size: int = BATCH, read: str = "post", largest: int | None = None
) -> Iterator[tuple[int, dict[str, dict[Tap, Moments]]]]:
    """After each batch, how many images were seen and {group: {tap: moments of target's and source's units}} so far.

    Memory does not grow with the number of images: only the moments are kept, and they are the same objects every time.
    """
    trace = problem.trace
    taps, sizes = {"post": trace.taps, "pre": trace.before, "pooled": trace.pooled}[read], trace.spec.sizes
    found = {group: {tap: Moments(sizes[group]) for tap in where} for group, where in taps.items()}
    seen = 0
    for sides in activations(problem, taps, batch_size, largest=largest):
        for group, running in found.items():
            for tap, moment in running.items():
                try:
                    moment.add(*(_samples(side[tap.node], tap.start, moment.units) for side in sides))
                except Refused as error:
                    raise Refused(f"group {group!r}, read at {tap.node!r}: {error}") from None
        del sides  # their memory is for the next batch
        seen = min(seen + batch_size, len(problem.images))
        yield seen, found


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
