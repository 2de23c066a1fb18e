"""The proof that a permutation leaves a network's function as it is: equal outputs and gradients in float64.

They are compared in each mode that runs other operations, on inputs of several batch sizes. Where an operation of the
network has no kernel for float64 they are compared in float32, with a larger tolerance, and the certificate says so.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.common.seeding import repeatable_draws
from neuralign.networks.caches import uncached
from neuralign.networks.foreign_networks import summary
from neuralign.networks.outputs import heads
from neuralign.symmetry.permutations import Permutation, PermutationSpec, State, permute
from neuralign.symmetry.precision import DoublePrecision, double_dtype
from neuralign.symmetry.tracing.execution import DeterministicNetwork
from neuralign.symmetry.tracing.trace import Trace

TOLERANCE = 1e-9  # the largest change of outputs and gradients that a certificate allows, relative to their size
# Relative to the largest gradient. Changes of smaller gradients are taken relative to this much of it: such gradients
# may be rounding errors alone, as of a bias before a batch norm.
SMALLEST_GRADIENT = 1e-3


@dataclass(frozen=True)
class Precision:
    """The dtype and the tolerance that functions are compared with."""

    dtype: torch.dtype
    tolerance: float  # as TOLERANCE
    smallest_gradient: float  # as SMALLEST_GRADIENT

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def dtype_for(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that tensors of this dtype are compared in."""
        if self.dtype == torch.float64:
            return double_dtype(dtype)
        return torch.complex64 if dtype.is_complex else self.dtype if dtype.is_floating_point else dtype


FLOAT64 = Precision(torch.float64, TOLERANCE, SMALLEST_GRADIENT)
FLOAT32 = Precision(torch.float32, 1e-3, 1e-2)


class CertificateError(RuntimeError):
    """A permutation that changes the network's function."""


@dataclass(frozen=True)
class Certificate:
    """How much a permutation changes a network's function, and what was compared to find out."""

    outputs: float  # the largest change of any output, relative to the largest of its numbers
    gradients: float  # the largest change of any gradient, likewise
    precision: Precision
    why: str  # why the precision is not float64; "" if it is
    batch_sizes: tuple[int, ...]
    modes: Mapping[str, str]  # "evaluation", "training" -> "", or why the network was not run so
    reached: int  # how many parameters and buffers the network used
    unreached: tuple[str, ...]  # parameters and buffers that it did not use, of which nothing is known

    @property
    def error(self) -> float:
        """The larger of both changes; nan if one is nan."""
        return _largest_or_nan((self.outputs, self.gradients))

    @property
    def holds(self) -> bool:
        """Whether both changes are within the tolerance."""
        return all(error <= self.precision.tolerance for error in (self.outputs, self.gradients))

    def facts(self) -> dict[str, Any]:
        """What is stored with the permutation."""
        return {
            "certificate": self.error,
            "certificate_precision": str(self.precision),
            "certificate_batch_sizes": list(self.batch_sizes),
            "certificate_modes": sorted(mode for mode, problem in self.modes.items() if not problem),
            "reached": self.reached,
            "unreached": list(self.unreached),
        }


def tolerance_of(facts: Mapping[str, Any]) -> float:
    """The largest error that a certificate with these facts may have."""
    return FLOAT32.tolerance if facts.get("certificate_precision") == str(FLOAT32) else TOLERANCE


def prove(trace: Trace, permutation: Permutation, state: State, inputs: Sequence[Tensor]) -> Certificate:
    """The certificate of `permutation` for the traced network with `state`, from these normalised inputs.

    Inputs after the first that the network does not accept are left out, as a single image is by layers that normalise
    over images.
    """
    networks = (trace.network, *trace.others)

    def changes(inputs: Sequence[Tensor], precision: Precision) -> list[dict[str, float]]:
        return [
            differences(network, trace.spec, permutation, state, x, precision=precision)
            for network in networks
            for x in inputs
        ]

    precision, why = FLOAT64, ""
    try:
        errors = changes(inputs[:1], FLOAT64)
    except (UserError, CertificateError):
        raise
    except Exception as error:  # of any kind, by the network's code
        precision, why = FLOAT32, summary(error)
        errors = _or_refuse(error, lambda: changes(inputs[:1], FLOAT32))
    others = [x for x in inputs[1:] if all(_accepts(network, state, x, precision) for network in networks)]
    try:
        errors += changes(others, precision)
    except (UserError, CertificateError):
        raise
    except Exception as error:  # of any kind, by the network's code
        sizes = " and ".join(str(len(x)) for x in others)
        raise UserError(
            f"nothing can be certified of this network: its gradients for {sizes} other images end in {summary(error)}"
        ) from error
    return Certificate(
        outputs=_largest_or_nan(e["outputs"] for e in errors),
        gradients=_largest_or_nan(e["gradients"] for e in errors),
        precision=precision,
        why=why,
        batch_sizes=tuple(len(x) for x in (inputs[0], *others)),
        modes=trace.modes,
        reached=len(trace.reached),
        unreached=trace.unreached,
    )


def _or_refuse(first: Exception, compare: Callable[[], list[dict[str, float]]]) -> list[dict[str, float]]:
    """What `compare` returns; if it raises an error as well, both errors are refused together."""
    try:
        return compare()
    except (UserError, CertificateError):
        raise
    except Exception as error:  # of any kind, by the network's code
        raise UserError(
            "nothing can be certified of this network, whose outputs and gradients are compared: in float64 it ends in "
            f"{summary(first)}; in float32 in {summary(error)}"
        ) from error


def _largest_or_nan(errors: Iterable[float]) -> float:
    return max(errors, key=lambda e: (e != e, e))


def _accepts(network: DeterministicNetwork, state: State, x: Tensor, precision: Precision) -> bool:
    """Whether the network runs on an input without an error."""
    try:
        with torch.no_grad(), _running(network, _cast(state, precision), x.device, precision):
            network.network(x.to(precision.dtype_for(x.dtype)))
    except Exception:  # of any kind, by the network's code
        return False
    return True


def differences(
    network: nn.Module | DeterministicNetwork,
    spec: PermutationSpec,
    permutation: Permutation,
    state: State,
    inputs: Tensor,
    *,
    at_once: int = 150_000_000,
    precision: Precision = FLOAT64,
) -> dict[str, float]:
    """{"outputs", "gradients"}: how much `permutation` changes the network's function, relative to its size.

    Outputs: the largest change of any head. Gradients: of one number made of all outputs, by each parameter and by the
    input; the largest change of any of them.

    Args:
        network: with these modules in training mode; a module runs in evaluation mode.
        spec: where groups lie on the network's tensors.
        permutation: of groups of `spec`.
        state: the network's tensors, by name.
        inputs: normalised, (n, ...).
        at_once: for how many numbers of parameters gradients are held in memory at once.
        precision: the dtype that is computed in.
    """
    runnable = network if isinstance(network, DeterministicNetwork) else DeterministicNetwork(network)
    permuted = permute(spec, permutation, state)
    outputs: list[Tensor] = []
    changes: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}
    for names in _chunks({n: p.numel() for n, p in runnable.network.named_parameters()}, at_once):
        heads_before, before = outputs_and_gradients(runnable, state, inputs, names, precision)
        before = permute(spec, permutation, before)
        heads_after, after = outputs_and_gradients(runnable, permuted, inputs, names, precision)
        if [h.shape for h in heads_before] != [h.shape for h in heads_after]:
            raise CertificateError("the permuted network is another function: it returns tensors of other shapes")
        if unmatched := sorted(before.keys() ^ after.keys()):
            which = "original" if unmatched[0] in before else "permuted network"
            raise CertificateError(
                f"the permuted network is another function: only the {which} uses {unmatched[0]} on these inputs"
            )
        outputs += [_relative_change(a, b) for a, b in zip(heads_after, heads_before, strict=True)]
        changes |= {n: (after[n] - g).abs().max().cpu() for n, g in before.items()}
        sizes |= {n: g.abs().max().cpu() for n, g in before.items()}
    least = precision.smallest_gradient * max(sizes.values(), default=torch.zeros(()))
    gradients = [change / sizes[n].clamp(min=1e-300).maximum(least) for n, change in changes.items()]
    return {"outputs": _largest(outputs), "gradients": _largest(gradients)}


def outputs_and_gradients(
    network: DeterministicNetwork,
    state: State,
    inputs: Tensor,
    names: Collection[str],
    precision: Precision = FLOAT64,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All outputs of a network, and the gradients of one number made of them by these parameters and "<input>"."""
    state = _cast(state, precision)
    variables = {n: state[n].requires_grad_() for n in names if n in state and _has_gradient(state[n])}
    if inputs.is_floating_point():
        variables["<input>"] = inputs = inputs.detach().to(precision.dtype, copy=True).requires_grad_()
    with torch.enable_grad(), _running(network, state, inputs.device, precision):
        outputs = _differentiable_outputs(network, inputs)
        number = torch.stack([_weighted_sum(head) for head in outputs]).sum()
        if number.requires_grad:
            number.backward()  # autograd.grad does not work with the reentrant form of torch.utils.checkpoint
    gradients = {n: t.grad for n, t in variables.items() if t.grad is not None}
    return [head.detach() for head in outputs], gradients


@contextmanager
def _running(network: DeterministicNetwork, state: State, device: torch.device, precision: Precision) -> Iterator[None]:
    """A block in which the network runs deterministically with `state`, in this precision."""
    casts = DoublePrecision() if precision is FLOAT64 else nullcontext()
    with repeatable_draws(device), uncached(network.network.modules()), casts, network.running(state):
        yield


def _differentiable_outputs(network: DeterministicNetwork, inputs: Tensor) -> list[Tensor]:
    """All outputs of floating point, complex ones as pairs of real numbers; refused where there is none."""
    outputs = [_as_real(head) for head in heads(network.network(inputs)) if _has_gradient(head)]
    if not outputs:
        raise UserError("the network returns no tensor of floating point, so nothing can be certified")
    return outputs


def _cast(state: State, precision: Precision) -> dict[str, Tensor]:
    """A copy of a state in this precision."""
    return {n: t.detach().to(precision.dtype_for(t.dtype), copy=True) for n, t in state.items()}


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _chunks(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The names in chunks whose sizes add up to at most `most`, unless one name alone has more; [] if there is none."""
    chunk: list[str] = []
    count = 0
    for name, size in sizes.items():
        if chunk and count + size > most:
            yield chunk
            chunk, count = [], 0
        chunk.append(name)
        count += size
    yield chunk


def require_within(changes: Mapping[str, float], tolerance: float, images: int) -> float:
    """The largest of these changes of outputs and gradients; raises CertificateError if it is above `tolerance`."""
    for what, error in changes.items():
        if not error <= tolerance:
            raise CertificateError(
                f"the permuted network is another function: its {what} differ by {error:.3g} of their size on "
                f"{images} images, at most {tolerance:.1g} is allowed"
            )
    return max(changes.values())


def _weighted_sum(head: Tensor) -> Tensor:
    """A sum of the finite outputs with weights that differ, so that a swap of outputs changes it."""
    head = torch.where(head.isfinite(), head, 0.0)
    return (head * torch.linspace(-1, 2, head.numel(), dtype=head.dtype, device=head.device).view(head.shape)).sum()


def _relative_change(after: Tensor, before: Tensor) -> Tensor:
    if not before.numel():
        return torch.zeros((), dtype=torch.float64)
    change = torch.where(after == before, 0.0, (after - before).abs())  # equal infinities, as of a mask, have none
    size = torch.where(before.isfinite(), before.abs(), 0.0).max()
    return (change.max() / size.clamp(min=1e-300)).cpu()


def _largest(changes: list[Tensor]) -> float:
    return torch.stack(changes).max().item() if changes else 0.0  # nan if one is nan
