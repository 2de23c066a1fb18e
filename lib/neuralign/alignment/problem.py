"""An alignment problem, the search for its solution, and the certificate of a solution.

To align is to find the permutation of the source's neurons that makes the source most similar to the target. The
methods are the plug-ins of `algorithms/`, `name(problem, *, ...options) -> {group: (n,)}`. What they find is certified:
a permutation that changes the function of the network is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.datasets.batches import Examples, Inputs, Transform, count_examples, map_tensors, select
from neuralign.datasets.images import as_is
from neuralign.networks.model import Model, State
from neuralign.symmetry.certificate import GRADIENTS_AT_ONCE, Certificate, prove, require_within
from neuralign.symmetry.permutations import Permutation, PermutationSpec, check
from neuralign.symmetry.precision import to_double
from neuralign.symmetry.tracing.trace import Trace
from neuralign.training.objective import Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.progress import Attack, Keeper


def _no_keeper(training: str) -> Keeper | None:
    """The default `keeper` of a problem: progress is not saved."""
    return None


@dataclass(frozen=True)
class Problem:
    """Two networks to align, the examples to compare them on, and what else a method may need."""

    model: Model
    trace: Trace  # of the model: its groups of neurons, and where their activations are read
    target: State  # the network that stays
    source: State  # the network whose neurons are to be permuted
    examples: Examples  # those on which the networks are compared
    transform: Transform = as_is  # how these examples are varied, as in the training
    start: Permutation | None = None  # the permutation to improve on; None: the identity
    attack: Attack | None = None  # the attack that the networks were trained with
    objective: Objective = CLASSIFICATION  # of the training, for methods that look at the loss
    keeper: Callable[[str], Keeper | None] = _no_keeper  # name of a training -> what saves its progress
    facts: dict[str, Any] = field(default_factory=dict)  # what the method reports besides the permutation


def search(problem: Problem, method: Callable[[Problem], Permutation]) -> Permutation:
    """The permutation that a method finds, {group: (n,)}; {} without a search if nothing may be permuted.

    Raises UserError unless the method returns a permutation of every free group.
    """
    spec = problem.trace.spec
    if not spec.free:
        return {}
    permutation = method(problem)
    if problem_found := _why_no_permutation(spec, permutation):
        function = getattr(method, "func", method)  # of a plug-in with options
        raise UserError(f"the alignment {function.__module__}:{function.__qualname__} {problem_found}")
    return permutation


def _why_no_permutation(spec: PermutationSpec, found: Any) -> str | None:
    """Why this is not {group: index (n,)} with a permutation of every free group; None if it is."""
    if not isinstance(found, Mapping):
        return f"returns {type(found).__name__}; a mapping {{group: index}} is needed"
    for group in spec.free:
        if group not in found:
            return f"returns no index for the group {group!r}; one for every free group is needed: {list(spec.free)}"
        if not isinstance(found[group], Tensor):
            return f"returns {type(found[group]).__name__} for the group {group!r}; an int64 tensor is needed"
    try:
        check(spec, found)
    except ValueError as error:
        return f"returns no permutation: {error}"
    return None


def certify(problem: Problem, permutation: Permutation, **options: Any) -> float:
    """The `error` of the `certificate`, whose arguments and exceptions it shares."""
    return certificate(problem, permutation, **options).error


def certificate(
    problem: Problem,
    permutation: Permutation,
    *,
    images: int = 32,
    tolerance: float | None = None,
    gradients_at_once: int = GRADIENTS_AT_ONCE,
) -> Certificate:
    """The largest relative change of the source's outputs and gradients when its neurons are permuted, in float64.

    All outputs are compared in training mode and the logits in evaluation mode, on three batches of the problem's
    examples: the first `images` of them, the next one, and the next three.

    Args:
        permutation: {group: (n,)}; ValueError if it is not admissible.
        tolerance: largest error that is accepted; above it, CertificateError. None: that of the precision in which the
            networks were compared, which is float32 if the network does not run in float64.
        gradients_at_once: how many numbers of gradients are held at once; for the others the network runs again.
    """
    trace = problem.trace
    check(trace.spec, permutation)
    model = problem.model.double()
    inputs, _ = next(problem.examples.batches(images + 1 + 3))
    available = count_examples(inputs)
    batches = [model.normalise(batch) for batch in _batches_of_sizes(inputs, (images, 1, 3))]
    proof = prove(trace, permutation, problem.source, batches, gradients_at_once=gradients_at_once)
    errors = {"outputs": proof.outputs, "gradients": proof.gradients}
    count = min(sum(proof.batch_sizes), available)
    require_within(errors, proof.precision.tolerance if tolerance is None else tolerance, count)
    return proof


def _batches_of_sizes(inputs: Inputs, sizes: Sequence[int]) -> Iterator[Inputs]:
    """Consecutive batches of these sizes, in float64; where too few examples are left, the first ones again."""
    inputs = map_tensors(to_double, inputs)
    count, start = count_examples(inputs), 0
    for size in sizes:
        start = start if start + size <= count else 0
        yield select(inputs, slice(start, start + size))
        start += size
