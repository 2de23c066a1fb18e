"""The proof that a permutation leaves a network's function as it is: equal outputs and gradients in float64.

It is taken of every way to run the network that does anything else, on inputs of several batch sizes. Where an
operation of the network has no kernel for float64 it is taken in float32, with a tolerance for that, and says so.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import Refused
from neuralign.common.seeding import drawn_alike
from neuralign.networks.caches import uncached
from neuralign.networks.foreign_networks import summary
from neuralign.networks.outputs import heads
from neuralign.symmetry.permutations import Permutation, Spec, State, permute
from neuralign.symmetry.precision import Doubled, precise
from neuralign.symmetry.tracing.execution import Whole
from neuralign.symmetry.tracing.trace import Trace

TOLERANCE = 1e-9  # what a certificate allows outputs and gradients to change, as a share of their size
# of the largest gradient: what is smaller is compared with that much of it, for it may be no more than rounding, as of
# biases before a norm over images
SMALL = 1e-3


@dataclass(frozen=True)
class Precision:
    """How exactly functions are compared."""

    dtype: torch.dtype
    tolerance: float  # as TOLERANCE
    small: float  # as SMALL

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def of(self, dtype: torch.dtype) -> torch.dtype:
        """The type that tensors of `dtype` are compared in."""
        if self.dtype == torch.float64:
            return precise(dtype)
        return torch.complex64 if dtype.is_complex else self.dtype if dtype.is_floating_point else dtype


FINE = Precision(torch.float64, TOLERANCE, SMALL)
COARSE = Precision(torch.float32, 1e-3, 1e-2)


class CertificateError(RuntimeError):
    """A permutation that changes the network's function."""


@dataclass(frozen=True)
class Certificate:
    """What a permutation changes, and of what that was found."""

    outputs: float  # the largest change of any output, as a share of its size
    gradients: float  # the largest change of any gradient
    precision: Precision
    why: str  # it is not float64; "" if it is
    batch_sizes: tuple[int, ...]
    modes: Mapping[str, str]  # "evaluation", "training" -> "", or why the network was not run so
    reached: int  # parameters and buffers that were used
    unreached: tuple[str, ...]  # that were not: nothing is known of them

    @property
    def error(self) -> float:
        """The larger of both changes; not a number if one is not."""
        return _worst((self.outputs, self.gradients))

    @property
    def holds(self) -> bool:
        """Whether both changes are within the tolerance."""
        return all(error <= self.precision.tolerance for error in (self.outputs, self.gradients))

    def facts(self) -> dict[str, Any]:
        """What to keep beside the permutation."""
        return {
            "certificate": self.error,
            "certificate_precision": str(self.precision),
            "certificate_batch_sizes": list(self.batch_sizes),
            "certificate_modes": sorted(mode for mode, problem in self.modes.items() if not problem),
            "reached": self.reached,
            "unreached": list(self.unreached),
        }


def tolerance_of(facts: Mapping[str, Any]) -> float:
    """What a certificate with these facts may be at most."""
    return COARSE.tolerance if facts.get("certificate_precision") == str(COARSE) else TOLERANCE


def prove(found: Trace, permutation: Permutation, state: State, inputs: Sequence[Tensor]) -> Certificate:
    """The certificate of `permutation` for the traced network with `state`, on each of these normalised inputs.

    Inputs after the first that the network does not take are left out, as a single image is by layers that always
    normalise over images.
    """
    runs = (found.network, *found.others)

    def changes(inputs: Sequence[Tensor], precision: Precision) -> list[dict[str, float]]:
        return [differences(r, found.spec, permutation, state, x, precision=precision) for r in runs for x in inputs]

    precision, why = FINE, ""
    try:
        errors = changes(inputs[:1], FINE)
    except (Refused, CertificateError):
        raise
    except Exception as error:  # of whatever kind the network's code raises
        precision, why = COARSE, summary(error)
        errors = _or_raise(error, lambda: changes(inputs[:1], COARSE))
    others = [x for x in inputs[1:] if all(_takes(run, state, x, precision) for run in runs)]
    errors += changes(others, precision)
    return Certificate(
        outputs=_worst(e["outputs"] for e in errors),
        gradients=_worst(e["gradients"] for e in errors),
        precision=precision,
        why=why,
        batch_sizes=tuple(len(x) for x in (inputs[0], *others)),
        modes=found.modes,
        reached=len(found.reached),
        unreached=found.unreached,
    )


def _or_raise(first: Exception, act: Callable[[], list[dict[str, float]]]) -> list[dict[str, float]]:
    """What `act` gives; refused with both errors, where it raises one too."""
    try:
        return act()
    except (Refused, CertificateError):
        raise
    except Exception as error:  # of whatever kind the network's code raises
        raise Refused(
            "nothing can be certified of this network, whose outputs and gradients are compared: in float64 it ends in "
            f"{summary(first)}; in float32 in {summary(error)}"
        ) from error


def _worst(errors: Iterable[float]) -> float:
    """The largest; not a number, if one is not."""
    return max(errors, key=lambda e: (e != e, e))


def _takes(run: Whole, state: State, x: Tensor, precision: Precision) -> bool:
    """Whether the network can be run on an input."""
    try:
        with torch.no_grad(), _compared(run, _precise(state, precision), x.device, precision):
            run.network(x.to(precision.of(x.dtype)))
    except Exception:  # of whatever kind the network's code raises
        return False
    return True


def differences(
    network: nn.Module | Whole,
    spec: Spec,
    permutation: Permutation,
    state: State,
    inputs: Tensor,
    *,
    at_once: int = 150_000_000,
    precision: Precision = FINE,
) -> dict[str, float]:
    """How much `permutation` changes what `network` does with `state` on `inputs`, as a share of its size.

    outputs: of any head, the largest. gradients: of one number made of all outputs, by every parameter, permuted, and
    by the input; the largest change of a gradient. With the gradients of so many numbers at once.
    """
    run = network if isinstance(network, Whole) else Whole(network)
    permuted = permute(spec, permutation, state)
    outputs: list[Tensor] = []
    apart: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}
    for names in _chunks({n: p.numel() for n, p in run.network.named_parameters()}, at_once):
        heads_before, before = behaviour(run, state, inputs, names, precision)
        before = permute(spec, permutation, before)
        heads_after, after = behaviour(run, permuted, inputs, names, precision)
        if [h.shape for h in heads_before] != [h.shape for h in heads_after]:
            raise CertificateError("the permuted network is another function: it returns tensors of other shapes")
        if unmatched := sorted(before.keys() ^ after.keys()):
            which = "original" if unmatched[0] in before else "permuted network"
            raise CertificateError(
                f"the permuted network is another function: only the {which} uses {unmatched[0]} on these inputs"
            )
        outputs += [_share(a, b) for a, b in zip(heads_after, heads_before, strict=True)]
        apart |= {n: (after[n] - g).abs().max().cpu() for n, g in before.items()}
        sizes |= {n: g.abs().max().cpu() for n, g in before.items()}
    least = precision.small * max(sizes.values(), default=torch.zeros(()))
    gradients = [gap / sizes[n].clamp(min=1e-300).maximum(least) for n, gap in apart.items()]
    return {"outputs": _largest(outputs), "gradients": _largest(gradients)}


def behaviour(
    run: Whole, state: State, inputs: Tensor, names: Collection[str], precision: Precision = FINE
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All outputs of a network, and the gradients of one number made of them, by these parameters and "<input>"."""
    state = _precise(state, precision)
    wanted = {n: state[n].requires_grad_() for n in names if n in state and _has_gradient(state[n])}
    if inputs.is_floating_point():
        wanted["<input>"] = inputs = inputs.detach().to(precision.dtype, copy=True).requires_grad_()
    with torch.enable_grad(), _compared(run, state, inputs.device, precision):
        outputs = _outputs(run, inputs)
        number = torch.stack([_number(head) for head in outputs]).sum()
        if number.requires_grad:
            number.backward()  # not autograd.grad, which torch.utils.checkpoint knows in one of its ways only
    gradients = {n: t.grad for n, t in wanted.items() if t.grad is not None}
    return [head.detach() for head in outputs], gradients


@contextmanager
def _compared(run: Whole, state: State, device: torch.device, precision: Precision) -> Iterator[None]:
    """A block in which the network runs with `state`, with nothing left to chance, in this precision."""
    doubled = Doubled() if precision is FINE else nullcontext()
    with drawn_alike(device), uncached(run.network.modules()), doubled, run.running(state):
        yield


def _outputs(run: Whole, inputs: Tensor) -> list[Tensor]:
    """All outputs of floating point; refused where there is none."""
    outputs = [_real(head) for head in heads(run.network(inputs)) if _has_gradient(head)]
    if not outputs:
        raise Refused("the network returns no tensor of floating point, so nothing can be certified")
    return outputs


def _precise(state: State, precision: Precision) -> dict[str, Tensor]:
    """A copy of a state in this precision."""
    return {n: t.detach().to(precision.of(t.dtype), copy=True) for n, t in state.items()}


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _chunks(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The names, in turn, of about `most` numbers at once; one empty chunk of none."""
    chunk: list[str] = []
    count = 0
    for name, size in sizes.items():
        if chunk and count + size > most:
            yield chunk
            chunk, count = [], 0
        chunk.append(name)
        count += size
    yield chunk


def demand(found: Mapping[str, float], tolerance: float, images: int) -> float:
    """The largest of these differences; refused with `CertificateError` above `tolerance`."""
    for what, error in found.items():
        if not error <= tolerance:
            raise CertificateError(
                f"the permuted network is another function: its {what} differ by {error:.3g} of their size on "
                f"{images} images, at most {tolerance:.1g} is allowed"
            )
    return max(found.values())


def _number(head: Tensor) -> Tensor:
    """A sum of outputs with weights that tell them apart."""
    head = torch.where(head.isfinite(), head, 0.0)
    return (head * torch.linspace(-1, 2, head.numel(), dtype=head.dtype, device=head.device).view(head.shape)).sum()


def _share(after: Tensor, before: Tensor) -> Tensor:
    if not before.numel():
        return torch.zeros((), dtype=torch.float64)
    apart = torch.where(after == before, 0.0, (after - before).abs())  # equal infinities, as of a mask, are no distance
    size = torch.where(before.isfinite(), before.abs(), 0.0).max()
    return (apart.max() / size.clamp(min=1e-300)).cpu()


def _largest(shares: list[Tensor]) -> float:
    return torch.stack(shares).max().item() if shares else 0.0  # a nan stays one
