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
from torch import Tensor
from torch.func import functional_call

from neuralign.birkhoff import assign
from neuralign.folding import fold, overwrite
from neuralign.images import Images, Transform, as_is
from neuralign.moments import Moments
from neuralign.networks import Model, State, logits
from neuralign.seeding import stream
from neuralign.symmetry import Permutation, check, permute
from neuralign.tracing import Tap, Taps, Trace
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


class CertificateError(RuntimeError):
    """A permutation that changes the network's function."""


def activations(
    problem: Problem, taps: Taps, batch_size: int, *, largest: int | None = None
) -> Iterator[tuple[dict[str, Tensor], ...]]:
    """Batch by batch, the tapped activations of target and source in evaluation mode: {node: (n, c, ...)} each.

    Where the problem has an attack, either network sees the images attacked against itself.
    """
    probe, names = problem.trace.probe(taps, largest=largest)
    folded = fold(probe)
    overwrite(folded.graph)
    sides = [(state, _channels_last(folded.state(state))) for state in (problem.target, problem.source)]
    noise = stream(0, "activations", device=problem.images.labels.device)

    def seen(state: State, plain: State, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if problem.attack:
            problem.model.network.eval()
            pixels = problem.attack(lambda x: problem.model(state, x), pixels, labels, noise)
        with torch.no_grad():
            found = functional_call(folded.graph, dict(plain), (problem.model.normalise(pixels),))
        return dict(zip(names, found, strict=True))

    for pixels, labels in problem.images.batches(batch_size):
        yield tuple(seen(*side, pixels, labels) for side in sides)


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
    taps, sizes = problem.trace.before if read == "pre" else problem.trace.taps, problem.trace.spec.sizes
    found = {group: {tap: Moments(sizes[group]) for tap in where} for group, where in taps.items()}
    seen = 0
    for sides in activations(problem, taps, batch_size, largest=largest):
        for running in found.values():
            for tap, moment in running.items():
                moment.add(*(_samples(side[tap.node], tap.start, moment.units) for side in sides))
        del sides  # their memory is for the next batch
        seen = min(seen + batch_size, len(problem.images))
        yield seen, found


def _samples(activation: Tensor, start: int, size: int) -> Tensor:
    """(images * positions, units): free where the activation lies channels-last in memory."""
    return activation[:, start : start + size].movedim(1, -1).reshape(-1, size)


@torch.no_grad()
def certify(problem: Problem, permutation: Permutation, *, images: int = 32, tolerance: float = 1e-9) -> float:
    """The largest change of the source's outputs under `permutation`, in float64 on real images, of their size.

    Looks at the network's own logits, and at every output of the traced graph: its auxiliary heads too. Raises
    `CertificateError` if it exceeds `tolerance`, and ValueError if `permutation` is not admissible.
    """
    check(problem.trace.spec, permutation)
    state = {name: t.double() if t.is_floating_point() else t for name, t in problem.source.items()}
    model = Model(problem.model.network, problem.model.mean.double(), problem.model.std.double())
    pixels = next(islice(problem.images.batches(images), 1))[0].double()

    def outputs(state: State) -> list[Tensor]:
        model.network.eval()
        heads = functional_call(problem.trace.graph.eval(), dict(state), (model.normalise(pixels),))
        return [logits(model(state, pixels)), *(heads if isinstance(heads, tuple) else (heads,))]

    pairs = zip(outputs(permute(problem.trace.spec, permutation, state)), outputs(state), strict=True)
    error = max(((after - before).abs().max() / before.abs().max().clamp(min=1e-300)).item() for after, before in pairs)
    if not error <= tolerance:
        raise CertificateError(
            f"the permuted network is another function: its outputs differ by {error:.3g} of their size on "
            f"{len(pixels)} images, at most {tolerance:.1g} is allowed"
        )
    return error
