"""An independent check, in plain PyTorch, that a permutation does not change a network's function.

The library's certificate runs the network by its own code, on the inputs of the trace. Here the permuted tensors are
loaded into a new network by `load_state_dict`, which is then called on other inputs.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.zoo.networks import Sample
from neuralign.symmetry import permutations
from neuralign.symmetry.tracing.trace import trace

State = Mapping[str, Tensor]
INPUTS = 3  # number of inputs; the trace has two
TOLERANCE = 1e-9  # the same as for a certificate
UNPERMUTED = 10  # number of tensors that are left unpermuted, one at a time, to test that the check notices it


def differences(make: Callable[[], Sample]) -> dict[str, float | None]:
    """{"evaluation", "training": the largest change of an output, as a share of the largest output}, in float64.

    The permutation is random, of all groups including those of attention; weights and statistics are random. In
    training mode dropout is off, and the updated buffers are compared too. "noticed": the share of ten permuted tensors
    for which the check fails if that tensor is left unpermuted.
    """
    sample, draws = make(), torch.Generator().manual_seed(7)
    spec = trace(sample.network, sample.draw(2, 0), attention=True).spec
    permutation = permutations.random(spec, draws)
    before = {n: _add_noise(n, t, draws) for n, t in make().network.state_dict().items()}
    after = permutations.permute(spec, permutation, before)
    inputs = sample.draw(INPUTS, 1)
    largest: dict[str, float | None] = {}
    for mode in ("evaluation", "training"):
        pair = [_load(make(), state, training=mode == "training") for state in (before, after)]
        outputs, actual = (_call(network, inputs) for network in pair)
        buffers, permuted_buffers = (dict(network.named_buffers()) for network in pair)
        expected_buffers = permutations.permute(spec, permutation, buffers)
        expected = outputs | {n: expected_buffers[n] for n in permuted_buffers}
        actual |= permuted_buffers
        largest[mode] = max(_relative_difference(tensor, expected[n]) for n, tensor in actual.items())
    return largest | {"noticed": _noticed_share(make(), before, after, inputs, draws)}


def _noticed_share(sample: Sample, before: State, after: State, inputs: Tensor, draws: torch.Generator) -> float | None:
    """Of UNPERMUTED permuted tensors, drawn at random, the share that changes the outputs if it is left unpermuted.

    None if no tensor is permuted.
    """
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    chosen = [moved[i] for i in torch.randperm(len(moved), generator=draws)[:UNPERMUTED]]
    expected = _call(_load(sample, after, training=False), inputs)
    changes = []
    for name in chosen:
        outputs = _call(_load(sample, {**after, name: before[name]}, training=False), inputs)
        changes.append(max(_relative_difference(tensor, expected[n]) for n, tensor in outputs.items()))
    return sum(not change <= TOLERANCE for change in changes) / len(changes) if changes else None


def _add_noise(name: str, tensor: Tensor, draws: torch.Generator) -> Tensor:
    """The tensor with noise, so that no two values are the same; signs of variances and infinite values are kept."""
    if not tensor.is_floating_point():
        return tensor.clone()
    value = tensor.double()
    noise = torch.randn(value.shape, generator=draws, dtype=torch.float64)
    if name.endswith("_var") or value.isinf().any():
        return value * (0.1 * noise).exp()
    if value.dim() > 1 and not value.std() > 0:
        return value + 0.1 * noise
    # large enough that every branch contributes; attentions, for example, are initialised with weights near zero
    return value + noise * (value[0].numel() ** -0.5 if value.dim() > 1 else 0.1)


def _load(sample: Sample, state: State, *, training: bool) -> nn.Module:
    network = sample.network.double().train(training)
    network.load_state_dict(state)
    for module in network.modules():
        for settings in (module, getattr(module, "config", None)):
            for name, value in list(vars(settings).items()) if settings is not None else ():
                is_dropout = "drop" in name or (name == "p" and "drop" in type(module).__name__.lower())
                if is_dropout and isinstance(value, float):
                    setattr(settings, name, 0.0)
    return network


class _Precise(TorchFunctionMode):
    """Replaces conversions to float32 in the network's code, as in the norms of language models, by float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {n: torch.float64 if a is torch.float32 else a for n, a in (kwargs or {}).items()}
        return func(*args, **kwargs)


@torch.no_grad()
def _call(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(3)
    with _Precise():
        outputs = network(inputs.double() if inputs.is_floating_point() else inputs)
    return {f"<output {i}>": tensor for i, tensor in enumerate(_tensors(outputs))}


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings of outputs; not those in caches, which are no outputs."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for part in outputs.values():
            yield from _tensors(part)
    elif isinstance(outputs, tuple | list):
        for part in outputs:
            yield from _tensors(part)


def _relative_difference(tensor: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest finite value of `expected`; equal infinities do not differ."""
    tensor, expected = tensor.double(), expected.double()
    if not tensor.isfinite().any():
        return 0.0 if torch.equal(tensor, expected) else torch.inf
    difference = torch.where(tensor == expected, 0.0, (tensor - expected).abs()).max()
    return float(difference / torch.where(expected.isfinite(), expected.abs(), 0.0).max().clamp(min=1e-300))
