"""The proof that a permutation leaves a network's function as it is: equal outputs and gradients in float64."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuralign.refusals import Refused
from neuralign.symmetry import Permutation, Spec, State, permute
from neuralign.tracing.running import Doubled, drawn_alike, heads

TOLERANCE = 1e-9  # what a certificate allows outputs and gradients to change, as a share of their size
SMALL = 1e-6  # of the largest gradient: what is smaller is compared with that much of it


class CertificateError(RuntimeError):
    """A permutation that changes the network's function."""


def differences(
    network: nn.Module,
    spec: Spec,
    permutation: Permutation,
    state: State,
    inputs: Tensor,
    *,
    at_once: int = 150_000_000,
) -> dict[str, float]:
    """How much `permutation` changes what `network` does with `state` on `inputs`, as a share of its size.

    outputs: of any head, the largest. gradients: of one number made of all outputs, by every parameter, permuted, and
    by the input; the largest change of a gradient. All in float64, with the gradients of so many numbers at once.
    """
    permuted = permute(spec, permutation, state)
    outputs: list[Tensor] = []
    apart: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}
    for names in _chunks({n: p.numel() for n, p in network.named_parameters()}, at_once):
        heads_before, before = behaviour(network, state, inputs, names)
        before = permute(spec, permutation, before)
        heads_after, after = behaviour(network, permuted, inputs, names)
        outputs += [_share(a, b) for a, b in zip(heads_after, heads_before, strict=True)]
        apart |= {n: (after[n] - g).abs().max().cpu() for n, g in before.items()}
        sizes |= {n: g.abs().max().cpu() for n, g in before.items()}
    least = SMALL * max(sizes.values(), default=torch.zeros(()))
    gradients = [gap / sizes[n].clamp(min=1e-300).maximum(least) for n, gap in apart.items()]
    return {"outputs": _largest(outputs), "gradients": _largest(gradients)}


def behaviour(
    network: nn.Module, state: State, inputs: Tensor, names: Collection[str]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All outputs of a network, and the gradients of one number made of them, by these parameters and "<input>"."""
    precise = {n: torch.float64 if t.is_floating_point() else t.dtype for n, t in state.items()}
    state = {n: t.detach().to(precise[n], copy=True) for n, t in state.items()}
    wanted = {n: state[n].requires_grad_() for n in names if n in state and state[n].is_floating_point()}
    if inputs.is_floating_point():
        wanted["<input>"] = inputs = inputs.detach().double().requires_grad_()
    with torch.enable_grad(), drawn_alike(inputs.device), Doubled():
        outputs = [head for head in heads(functional_call(network, state, (inputs,))) if head.is_floating_point()]
        if not outputs:
            raise Refused("the network returns no tensor of floating point, so nothing can be certified")
        number = torch.stack([_number(head) for head in outputs]).sum()
    found = torch.autograd.grad(number, list(wanted.values()), allow_unused=True) if number.requires_grad else ()
    gradients = {n: g for n, g in zip(wanted, found, strict=False) if g is not None}
    return [head.detach() for head in outputs], gradients


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


def demand(found: dict[str, float], tolerance: float, images: int) -> float:
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
