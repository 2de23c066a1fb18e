"""Certificates: the numerical check that a permutation leaves a network's function as it is.

Outputs and gradients of the original and the permuted network are compared in float64, on inputs of several batch
sizes, in evaluation mode and, where that runs other operations, in training mode. Where an operation of the network has
no kernel for float64, or where the memory for float64 is not free, they are compared in float32, with a larger
tolerance, and the certificate says so.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.common.memory import free_memory
from neuralign.common.seeding import repeatable_draws
from neuralign.datasets.batches import Inputs, call, count_examples, map_tensors, tensors_of
from neuralign.networks.caches import preserved_attributes
from neuralign.networks.foreign_networks import summary
from neuralign.networks.model import State
from neuralign.networks.outputs import output_tensors
from neuralign.symmetry.inputs import named_inputs
from neuralign.symmetry.memory import GIB, needed_memory
from neuralign.symmetry.permutations import Permutation, PermutationSpec, permute, permute_when_read
from neuralign.symmetry.precision import DoublePrecision, double_dtype
from neuralign.symmetry.tracing.execution import DeterministicNetwork
from neuralign.symmetry.tracing.trace import Trace

TOLERANCE = 1e-9  # the largest change of outputs and gradients that a certificate allows, relative to their size
# The change of a parameter's gradient is divided by the size of that gradient, but by no less than this share of the
# largest gradient: a gradient may consist of rounding errors alone, as that of a bias before a batch norm does.
SMALLEST_GRADIENT = 1e-3
GRADIENTS_AT_ONCE = 150_000_000  # numbers


@dataclass(frozen=True)
class Precision:
    """The dtype in which two networks are compared, and the tolerances."""

    dtype: torch.dtype
    tolerance: float  # as TOLERANCE
    smallest_gradient: float  # as SMALLEST_GRADIENT

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def dtype_for(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype to which tensors of `dtype` are cast for the comparison; integers keep theirs."""
        if self.dtype == torch.float64:
            return double_dtype(dtype)
        return torch.complex64 if dtype.is_complex else self.dtype if dtype.is_floating_point else dtype


FLOAT64 = Precision(torch.float64, TOLERANCE, SMALLEST_GRADIENT)
FLOAT32 = Precision(torch.float32, 1e-3, 1e-2)


class CertificateError(RuntimeError):
    """A permutation changes the network's function; the message says by how much or how."""


@dataclass(frozen=True)
class Certificate:
    """How much a permutation changes a network's function, and what was compared to find out."""

    outputs: float  # the largest change of any output tensor, relative to the largest of its numbers
    gradients: float  # the largest change of any gradient, see `differences`
    precision: Precision
    why: str  # why the precision is not float64, an error or a lack of memory; "" if it is
    batch_sizes: tuple[int, ...]  # of the inputs that have a batch axis
    modes: Mapping[str, str]  # "evaluation", "training" -> "", or the error that kept the network from running so
    reached: int  # how many parameters and buffers the network uses
    unreached: tuple[str, ...]  # parameters and buffers that it does not use, of which nothing is certified

    @property
    def error(self) -> float:
        """The larger of the two changes; nan if one is nan."""
        return _largest_or_nan((self.outputs, self.gradients))

    @property
    def holds(self) -> bool:
        """Whether both changes are within the tolerance."""
        return all(error <= self.precision.tolerance for error in (self.outputs, self.gradients))

    def facts(self) -> dict[str, Any]:
        """The metadata that are stored with the permutation, as plain data."""
        return {
            "certificate": self.error,
            "certificate_precision": str(self.precision),
            **({"certificate_why": self.why} if self.why else {}),
            "certificate_batch_sizes": list(self.batch_sizes),
            "certificate_modes": sorted(mode for mode, problem in self.modes.items() if not problem),
            "reached": self.reached,
            "unreached": list(self.unreached),
        }


def tolerance_of(facts: Mapping[str, Any]) -> float:
    """The largest error that a certificate may have, from its stored `facts`."""
    return FLOAT32.tolerance if facts.get("certificate_precision") == str(FLOAT32) else TOLERANCE


def prove(
    trace: Trace,
    permutation: Permutation,
    state: State,
    inputs: Sequence[Inputs],
    *,
    memory: float | None = None,
    gradients_at_once: int = GRADIENTS_AT_ONCE,
) -> Certificate:
    """The certificate of `permutation` for the traced network with `state`.

    `inputs`: of several numbers of examples. Those after the first that the network does not accept are left out:
    layers that normalise over examples, for instance, do not accept a single one. Raises UserError if outputs or
    gradients cannot be computed, CertificateError if the two networks cannot be compared.

    `memory`: bytes that the comparison may need; where float64 needs more, it is made in float32. None: all that is
    free on the device of the inputs.
    `gradients_at_once`: as in `differences`.
    """
    networks = (trace.network, *trace.others)

    def compare(inputs: Sequence[Inputs], precision: Precision) -> list[dict[str, float]]:
        return [
            differences(
                network,
                trace.spec,
                permutation,
                state,
                x,
                gradients_at_once=gradients_at_once,
                precision=precision,
            )
            for network in networks
            for x in inputs
        ]

    why = problem = _why_too_large(trace, inputs, memory, gradients_at_once)
    if not why:
        try:
            changes = compare(inputs[:1], FLOAT64)
        except (UserError, CertificateError):
            raise
        except Exception as error:  # of any kind, by the network's code
            why = summary(error)
            problem = f"it raises {why}"
    precision = FLOAT32 if why else FLOAT64
    if why:
        with _refusing(f", whose outputs and gradients are compared: in float64 {problem}; in float32"):
            changes = compare(inputs[:1], FLOAT32)
    accepted = [x for x in inputs[1:] if all(_accepts(network, state, x, precision) for network in networks)]
    with _refusing(f": its gradients at batch size {' and '.join(str(count_examples(x)) for x in accepted)} raise"):
        changes += compare(accepted, precision)
    return Certificate(
        outputs=_largest_or_nan(change["outputs"] for change in changes),
        gradients=_largest_or_nan(change["gradients"] for change in changes),
        precision=precision,
        why=why,
        batch_sizes=tuple(size for x in (inputs[0], *accepted) if (size := count_examples(x))),
        modes=trace.modes,
        reached=len(trace.reached),
        unreached=trace.unreached,
    )


def _why_too_large(trace: Trace, inputs: Sequence[Inputs], memory: float | None, gradients_at_once: int) -> str:
    """Why networks cannot be compared in float64: how much memory that needs. "" if no more than `memory`.

    `memory`, `gradients_at_once`: as in `prove`.
    """
    network = trace.network.network
    sizes = [p.numel() for p in network.parameters()]
    state = sum(sizes) + sum(b.numel() for b in network.buffers())
    gradients = min(sum(sizes), max(gradients_at_once, max(sizes, default=0)))
    activations = trace.activations * max(map(count_examples, inputs))
    needed = needed_memory(torch.float64.itemsize, state, gradients, activations)
    free = free_memory(next(tensors_of(inputs[0])).device) if memory is None else memory
    return "" if needed <= free else f"it needs {needed / GIB:.1f} GiB of memory, of which {free / GIB:.1f} are free"


@contextmanager
def _refusing(words: str) -> Iterator[None]:
    """A `with` block in which an error of the network's code becomes a UserError, whose message has these words."""
    try:
        yield
    except (UserError, CertificateError):
        raise
    except Exception as error:  # of any kind
        raise UserError(f"nothing can be certified of this network{words} {summary(error)}") from error


def _largest_or_nan(changes: Iterable[float]) -> float:
    """The largest number, nan if one is nan (`max` alone may pass over it), 0 if there is none."""
    return max(changes, key=lambda change: (isnan(change), change), default=0.0)


def _accepts(network: DeterministicNetwork, state: State, inputs: Inputs, precision: Precision) -> bool:
    """Whether the network runs on inputs without an error."""
    try:
        with torch.no_grad(), _running(network, _cast(state, precision), inputs, precision):
            call(network.network, _cast_inputs(inputs, precision))
    except Exception:  # of any kind, by the network's code
        return False
    return True


def differences(
    network: nn.Module | DeterministicNetwork,
    spec: PermutationSpec,
    permutation: Permutation,
    state: State,
    inputs: Inputs,
    *,
    gradients_at_once: int = GRADIENTS_AT_ONCE,
    precision: Precision = FLOAT64,
) -> dict[str, float]:
    """How much `permutation` changes the network's function: {"outputs": change, "gradients": change}, relative.

    "outputs" is the largest change of any output tensor, relative to its size. "gradients" is the largest change of the
    gradient of a weighted sum of all outputs by any parameter or input, relative as said at SMALLEST_GRADIENT.
    Raises CertificateError if outputs have other shapes, or if one of the two networks uses a parameter that the other
    does not.

    Args:
        network: a `DeterministicNetwork`, which says which modules run in training mode; a module runs in evaluation
            mode.
        spec: the symmetry of the network.
        permutation: of free groups of `spec`.
        state: the network's tensors, by name.
        inputs: of the network; images are normalised.
        gradients_at_once: how many numbers of gradients are held in memory at once; for the others the network runs
            again.
        precision: the dtype of the computation.
    """
    runnable = network if isinstance(network, DeterministicNetwork) else DeterministicNetwork(network)
    permuted = permute_when_read(spec, permutation, state)
    output_changes: list[Tensor] = []
    changes: dict[str, Tensor] = {}  # of gradients, by name
    sizes: dict[str, Tensor] = {}  # of gradients, by name
    for names in _chunks({n: p.numel() for n, p in runnable.network.named_parameters()}, gradients_at_once):
        outputs_before, before = outputs_and_gradients(runnable, state, inputs, names, precision)
        before = {n: permute(spec, permutation, {n: before.pop(n)})[n] for n in list(before)}  # one by one: less memory
        outputs_after, after = outputs_and_gradients(runnable, permuted, inputs, names, precision)
        if [t.shape for t in outputs_before] != [t.shape for t in outputs_after]:
            raise CertificateError("the permuted network is another function: it returns tensors of other shapes")
        if unmatched := sorted(before.keys() ^ after.keys()):
            which = "original network" if unmatched[0] in before else "permuted network"
            raise CertificateError(
                f"the permuted network is another function: only the {which} uses {unmatched[0]} on these inputs"
            )
        output_changes += map(_relative_change, outputs_after, outputs_before)
        changes |= {n: (after[n] - g).abs().max().cpu() for n, g in before.items()}
        sizes |= {n: g.abs().max().cpu() for n, g in before.items()}
        del before, after  # before those of the next chunk are computed
    least = precision.smallest_gradient * max(sizes.values(), default=torch.zeros(()))
    gradient_changes = [change / _positive(sizes[n]).maximum(least) for n, change in changes.items()]
    return {
        "outputs": _largest_or_nan(change.item() for change in output_changes),
        "gradients": _largest_or_nan(change.item() for change in gradient_changes),
    }


def outputs_and_gradients(
    network: DeterministicNetwork,
    state: State,
    inputs: Inputs,
    names: Collection[str],
    precision: Precision = FLOAT64,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All output tensors of a network, and {name: gradient of a weighted sum of them} by parameters and by inputs.

    `names`: of the parameters. The name of an input is "<input>" if it is the only one, else that of `named_inputs` in
    angle brackets; whole numbers have no gradient. Parameters and inputs that the outputs do not depend on are absent
    from the gradients.
    """
    state = _cast(state, precision)
    variables = {n: state[n].requires_grad_() for n in names if n in state and _can_have_gradient(state[n])}
    inputs = _cast_inputs(inputs, precision)
    for name, tensor in named_inputs(network.network, inputs):
        if _can_have_gradient(tensor):
            variables["<input>" if tensor is inputs else f"<{name}>"] = tensor.requires_grad_()
    with torch.enable_grad(), _running(network, state, inputs, precision):
        outputs = _differentiable_outputs(network, inputs)
        total = torch.stack([_weighted_sum(output) for output in outputs]).sum()
        if total.requires_grad:
            total.backward()  # autograd.grad does not work with the reentrant form of torch.utils.checkpoint
    gradients = {n: t.grad for n, t in variables.items() if t.grad is not None}
    return [output.detach() for output in outputs], gradients


@contextmanager
def _running(network: DeterministicNetwork, state: State, inputs: Inputs, precision: Precision) -> Iterator[None]:
    """A `with` block in which the network runs without randomness, with the tensors of `state`, in this precision."""
    casts = DoublePrecision() if precision is FLOAT64 else nullcontext()
    device = next(tensors_of(inputs)).device
    with repeatable_draws(device), preserved_attributes(network.network.modules()), casts, network.running(state):
        yield


def _differentiable_outputs(network: DeterministicNetwork, inputs: Inputs) -> list[Tensor]:
    """All floating-point outputs, and complex ones as pairs of real numbers; UserError if there is none."""
    outputs = [_as_real(t) for t in output_tensors(call(network.network, inputs)) if _can_have_gradient(t)]
    if not outputs:
        raise UserError("the network returns no floating-point tensor, so nothing can be certified")
    return outputs


def _cast(state: State, precision: Precision) -> dict[str, Tensor]:
    """A copy of a state in this precision."""
    return {n: t.detach().to(precision.dtype_for(t.dtype), copy=True) for n, t in state.items()}


def _cast_inputs(inputs: Inputs, precision: Precision) -> Inputs:
    """A copy of inputs in this precision; the network may overwrite it."""
    return map_tensors(lambda t: t.detach().to(precision.dtype_for(t.dtype), copy=True), inputs)


def _can_have_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _chunks(sizes: Mapping[str, int], largest: int) -> Iterator[list[str]]:
    """Chunks of names whose sizes add up to at most `largest`; a larger one is alone. One empty chunk for no names."""
    chunk: list[str] = []
    count = 0
    for name, size in sizes.items():
        if chunk and count + size > largest:
            yield chunk
            chunk, count = [], 0
        chunk.append(name)
        count += size
    yield chunk


def require_within(changes: Mapping[str, float], tolerance: float, images: int) -> float:
    """The largest of these changes of outputs and gradients; raises CertificateError if it is above `tolerance`."""
    for quantity, change in changes.items():
        if not change <= tolerance:
            raise CertificateError(
                f"the permuted network is another function: its {quantity} differ by {change:.3g} of their size on "
                f"{images} images, at most {tolerance:.1g} is allowed"
            )
    return max(changes.values())


def _weighted_sum(output: Tensor) -> Tensor:
    """A sum of the finite numbers of an output, with weights that all differ, so that a swap of numbers changes it."""
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype, device=output.device).view(output.shape)
    return (torch.where(output.isfinite(), output, 0.0) * weights).sum()


def _relative_change(after: Tensor, before: Tensor) -> Tensor:
    """The largest change of any number, relative to the largest finite number of `before`: a scalar on the CPU."""
    if not before.numel():
        return torch.zeros((), dtype=torch.float64)
    change = torch.where(after == before, 0.0, (after - before).abs())  # inf - inf, as of a mask, would be nan
    size = torch.where(before.isfinite(), before.abs(), 0.0).max()
    return (change.max() / _positive(size)).cpu()


def _positive(size: Tensor) -> Tensor:
    """The size, or the smallest positive number of its dtype if it is 0, so that 0 divided by it is 0, not nan."""
    return size.clamp(min=torch.finfo(size.dtype).tiny)
