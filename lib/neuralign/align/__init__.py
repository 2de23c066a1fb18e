"""Alignment: find the permutation of `source`'s neurons that fits `target`'s.

A plug-in of this folder is `name(problem, *, ...options) -> {group: index}`; `certify` refuses what does not leave the
network's function unchanged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from neuralign.images import Images
from neuralign.networks import Model, State, logits
from neuralign.symmetry import Permutation, check, permute
from neuralign.tracing import Trace


@dataclass(frozen=True)
class Problem:
    model: Model
    trace: Trace
    target: State
    source: State
    images: Images  # what a method may look at


class CertificateError(RuntimeError):
    """A permutation that changes the network's function."""


def assign(score: Tensor) -> Tensor:
    """The permutation (n,) that maximises the sum of score[i, permutation[i]], exactly; score is (n, n), finite."""
    _, columns = linear_sum_assignment(score.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(np.ascontiguousarray(columns, dtype=np.int64))


def activations(problem: Problem, batch_size: int, count: int | None) -> Iterator[tuple[dict[str, Tensor], ...]]:
    """Batch by batch, the tapped activations of target and source in evaluation mode: {node: (n, c, ...)} each."""
    probe, names = problem.trace.probe()
    with torch.no_grad():
        for pixels, _ in problem.images.first(count).batches(batch_size):
            inputs = (problem.model.normalise(pixels),)
            yield tuple(
                dict(zip(names, torch.func.functional_call(probe, dict(state), inputs), strict=True))
                for state in (problem.target, problem.source)
            )


@torch.no_grad()
def certify(problem: Problem, permutation: Permutation, *, images: int = 32, tolerance: float = 1e-9) -> float:
    """The largest change of the source's logits under `permutation`, in float64 on real images, relative to their size.

    Raises `CertificateError` if it exceeds `tolerance`, and ValueError if `permutation` is not admissible.
    """
    check(problem.trace.spec, permutation)
    state = {name: t.double() if t.is_floating_point() else t for name, t in problem.source.items()}
    model = Model(problem.model.network, problem.model.mean.double(), problem.model.std.double())
    pixels = next(islice(problem.images.batches(images), 1))[0].double()
    model.network.eval()
    before = logits(model(state, pixels))
    after = logits(model(permute(problem.trace.spec, permutation, state), pixels))
    error = ((after - before).abs().max() / before.abs().max().clamp(min=1e-300)).item()
    if not error <= tolerance:
        raise CertificateError(
            f"the permuted network is another function: its logits differ by {error:.3g} of their size on "
            f"{len(pixels)} images, at most {tolerance:.1g} is allowed"
        )
    return error
