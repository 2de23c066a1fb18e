"""Alignment: find the permutation of `source`'s neurons that fits `target`'s.

A plug-in of this folder is `name(problem, *, ...options) -> {group: index}`; `certify` refuses what does not leave the
network's function unchanged.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuralign.alignment.birkhoff import assign
from neuralign.alignment.moments import Moments
from neuralign.common.errors import Refused
from neuralign.common.seeding import stream
from neuralign.datasets.images import Images, Transform, as_float, as_is
from neuralign.networks.model import Model, State
from neuralign.symmetry.certificate import TOLERANCE, Certificate, CertificateError, prove, require_within
from neuralign.symmetry.folding import Uncapturable, capture, fold, use_inplace_relus
from neuralign.symmetry.permutations import Permutation, check
from neuralign.symmetry.precision import DoublePrecision, to_double
from neuralign.symmetry.tracing.execution import NotComputed, Probe, with_copied_buffers
from neuralign.symmetry.tracing.taps import ACTIVATIONS
from neuralign.symmetry.tracing.trace import Tap, Taps, Trace
from neuralign.training.progress import Attack, Keeper

__all__ = [
    "CertificateError",
    "Problem",
    "activations",
    "assign",
    "certificate",
    "certify",
    "correlations",
    "search",
    "unit_moments",
]

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


def search(problem: Problem, method: Callable[[Problem], Permutation]) -> Permutation:
    """What a method finds, {group: (n,)}; {} for a network of which nothing may be permuted, without a search."""
    return method(problem) if problem.trace.spec.free else {}


def activations(
    problem: Problem, taps: Taps, batch_size: int, *, largest: int | None = None
) -> Iterator[tuple[dict[str, Tensor], ...]]:
    """Batch by batch, the tapped activations of target and source in evaluation mode: {node: (n, c, ...)} each.

    Where the problem has an attack, either network sees the images attacked against itself.
    """
    model, ends = problem.model, (problem.target, problem.source)
    probe, names = problem.trace.probe(taps, largest=largest)
    probe, plains = folded_probe(problem, taps, largest) or (probe, ends)
    sides = list(zip(ends, map(_own_copy, plains), strict=True))
    noise = stream(0, "activations", device=problem.images.labels.device)

    def seen(state: State, plain: State, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if attack := problem.attack:
            model.network.eval()
            with model.holding(with_copied_buffers(model.network, state)) as predict:
                pixels = attack(predict, pixels, labels, noise)
        with torch.no_grad():
            found = probe(model.normalise(pixels), plain)
        return dict(zip(names, found, strict=True))

    for pixels, labels in problem.images.batches(batch_size):
        yield tuple(seen(*side, pixels, labels) for side in sides)


def folded_probe(problem: Problem, taps: Taps, largest: int | None) -> tuple[Probe, list[State]] | None:
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
        use_inplace_relus(folded.graph)
    plain, _ = trace.probe(taps, largest=largest, network=folded.graph)
    precise = {n: to_double(t) for n, t in problem.target.items()}
    pixels, _ = next(problem.images.batches(2))
    inputs = (pixels.double() - problem.model.mean.double()) / problem.model.std.double()
    try:
        with torch.no_grad(), DoublePrecision():
            expected = probe(inputs, precise)
            found = plain(inputs, folded.state(precise))
    except (NotComputed, RuntimeError, TypeError):  # also where an operation has no kernel for float64
        return None
    pairs = zip(found, expected, strict=True)
    if not all(a.shape == b.shape and (a - b).abs().max() <= TOLERANCE * b.abs().max() for a, b in pairs):
        return None
    return plain, [folded.state(state) for state in (problem.target, problem.source)]


def _own_copy(state: State) -> State:
    """A copy, which the network may write to, with kernels laid out as the images are: no convolution converts them."""
    last, kept = torch.channels_last, torch.preserve_format
    return {n: t.detach().clone(memory_format=last if t.dim() == 4 else kept) for n, t in state.items()}


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


def certify(problem: Problem, permutation: Permutation, *, images: int = 32, tolerance: float | None = None) -> float:
    """The largest change of the source's outputs and gradients under `permutation`: the error of its `certificate`."""
    return certificate(problem, permutation, images=images, tolerance=tolerance).error


def certificate(
    problem: Problem, permutation: Permutation, *, images: int = 32, tolerance: float | None = None
) -> Certificate:
    """What `permutation` changes of the source's outputs and gradients, in float64 on real images: certificate.py.

    As a share of their size, of all heads as in training, and of the logits in evaluation mode; on the first `images`,
    the next one, and three more. Raises `CertificateError` if it exceeds `tolerance`, by default that of the precision
    it was taken in, and ValueError if `permutation` is not admissible.
    """
    trace = problem.trace
    check(trace.spec, permutation)
    model = Model(problem.model.network, problem.model.mean.double(), problem.model.std.double())
    inputs = [model.normalise(pixels.double()) for pixels in _several(problem.images, (images, 1, 3))]
    found = prove(trace, permutation, problem.source, inputs)
    errors = {"outputs": found.outputs, "gradients": found.gradients}
    seen = min(sum(found.batch_sizes), len(problem.images))
    require_within(errors, found.precision.tolerance if tolerance is None else tolerance, seen)
    return found


def _several(images: Images, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Pixels of batches of these sizes, one after the other as far as there are images, else the first ones again."""
    start = 0
    for size in sizes:
        start = start if start + size <= len(images) else 0
        yield as_float(images.pixels[start : start + size])
        start += size
