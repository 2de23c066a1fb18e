"""Whether a permutation leaves a network's function as it is, told by nothing but plain PyTorch.

The library's certificate runs a network through wrappers of its own, on the inputs of the trace. Here the permuted
tensors are loaded into a fresh network, as a user would load them, which is then called on new inputs, more of them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.zoo.networks import Made
from neuralign.symmetry import permutations
from neuralign.symmetry.tracing.trace import trace

State = Mapping[str, Tensor]
INPUTS = 3  # the trace sees two
TOLERANCE = 1e-9  # as of a certificate
LEFT = 10  # tensors that are left in the old order, one at a time, to see that the check notices


def differences(make: Callable[[], Made]) -> dict[str, float | None]:
    """{"evaluation", "training": the largest change of an output, as a share of the largest output}, in float64.

    Under a random permutation of all groups, those of attentions among them, of weights and statistics at random. In
    training mode dropout is off, and what the pass makes of the buffers must be permuted like the buffers. "noticed":
    the share of ten permuted tensors of which the check notices if one is left in the old order.
    """
    made, draws = make(), torch.Generator().manual_seed(7)
    spec = trace(made.network, made.draw(2, 0), attention=True).spec
    permutation = permutations.random(spec, draws)
    before = {n: _scattered(n, t, draws) for n, t in make().network.state_dict().items()}
    after = permutations.permute(spec, permutation, before)
    inputs = made.draw(INPUTS, 1)
    found: dict[str, float | None] = {}
    for mode in ("evaluation", "training"):
        pair = [_loaded(make(), state, training=mode == "training") for state in (before, after)]
        outputs, theirs = (_called(network, inputs) for network in pair)
        own, others = (dict(network.named_buffers()) for network in pair)
        kept = permutations.permute(spec, permutation, own)
        outputs |= {n: kept[n] for n in others}
        found[mode] = max(_gap(tensor, outputs[n]) for n, tensor in (theirs | others).items())
    return found | {"noticed": _noticed(make(), before, after, inputs, draws)}


def _noticed(made: Made, before: State, after: State, inputs: Tensor, draws: torch.Generator) -> float | None:
    """The share of LEFT permuted tensors, drawn at random, whose old order changes the outputs; None without any."""
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    chosen = [moved[i] for i in torch.randperm(len(moved), generator=draws)[:LEFT]]
    expected = _called(_loaded(made, after, training=False), inputs)
    changes = []
    for name in chosen:
        outputs = _called(_loaded(made, {**after, name: before[name]}, training=False), inputs)
        changes.append(max(_gap(tensor, expected[n]) for n, tensor in outputs.items()))
    return sum(not change <= TOLERANCE for change in changes) / len(changes) if changes else None


def _scattered(name: str, tensor: Tensor, draws: torch.Generator) -> Tensor:
    """A tensor in which hardly two numbers are alike, so that none can stand in for another; signs and masks stay."""
    if not tensor.is_floating_point():
        return tensor.clone()
    value = tensor.double()
    noise = torch.randn(value.shape, generator=draws, dtype=torch.float64)
    if name.endswith("_var") or value.isinf().any():
        return value * (0.1 * noise).exp()
    if value.dim() > 1 and not value.std() > 0:
        return value + 0.1 * noise
    # so large that no branch of the network is all but silent, as attentions are where weights begin near zero
    return value + noise * (value[0].numel() ** -0.5 if value.dim() > 1 else 0.1)


def _loaded(made: Made, state: State, *, training: bool) -> nn.Module:
    network = made.network.double().train(training)
    network.load_state_dict(state)
    for module in network.modules():
        for held in (module, getattr(module, "config", None)):
            for name, value in list(vars(held).items()) if held is not None else ():
                drops = "drop" in name or (name == "p" and "drop" in type(module).__name__.lower())
                if drops and isinstance(value, float):
                    setattr(held, name, 0.0)
    return network


class _Precise(TorchFunctionMode):
    """Float64 where a network's own code asks for float32, as norms of language models do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {n: torch.float64 if a is torch.float32 else a for n, a in (kwargs or {}).items()}
        return func(*args, **kwargs)


@torch.no_grad()
def _called(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(3)
    with _Precise():
        outputs = network(inputs.double() if inputs.is_floating_point() else inputs)
    return {f"<output {i}>": tensor for i, tensor in enumerate(_tensors(outputs))}


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors in tuples and mappings of outputs, but not in caches, which hold what lies inside the network."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for part in outputs.values():
            yield from _tensors(part)
    elif isinstance(outputs, tuple | list):
        for part in outputs:
            yield from _tensors(part)


def _gap(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest number; equal infinities are no difference."""
    found, expected = found.double(), expected.double()
    if not found.isfinite().any():
        return 0.0 if torch.equal(found, expected) else torch.inf
    apart = torch.where(found == expected, 0.0, (found - expected).abs()).max()
    return float(apart / torch.where(expected.isfinite(), expected.abs(), 0.0).max().clamp(min=1e-300))
