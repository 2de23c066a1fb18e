"""How a network updates each of its buffers in training mode: as a running statistic, as a counter, and so on.

The norms of PyTorch are recognised by their `forward` (see FORWARDS). Any other module that holds buffers is classified
by experiment, whatever its class: it is called in training mode with the arguments that it gets for a small batch, with
those that it gets for another batch, and with other values in its buffers; then the buffers are compared.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from neuralign.common.seeding import repeatable_draws
from neuralign.datasets.batches import Inputs, count_examples, map_tensors, select, tensors_of
from neuralign.networks.foreign_networks import summary
from neuralign.networks.model import Model, State, canonical_names, preserved_modes
from neuralign.networks.outputs import output_tensors

# a module that runs one of these updates its buffers as PyTorch documents
FORWARDS = {_BatchNorm.forward, nn.SyncBatchNorm.forward, _InstanceNorm.forward}
IMAGES = 8  # size of a batch on which modules are tried
# In a trial a running statistic starts from this many times its size, so that the share which a call keeps is visible.
LARGE = 1e4
ALIKE = 1e-3  # the difference up to which two such shares count as equal
MOMENTUM = 0.25  # set in a trial, to see whether a module uses its `momentum` as PyTorch's norms do

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of a module


@dataclass(frozen=True)
class Norm:
    """A module that keeps running statistics of its inputs: moving averages that only evaluation mode uses."""

    module: nn.Module
    statistics: Mapping[str, str]  # name in the module -> name in the network
    counters: tuple[str, ...] = ()  # buffers that count its calls, by their names in the network
    rate: float | None = None  # weight of the newest call in the average; None: the module's `momentum` sets it


@dataclass(frozen=True)
class Updates:
    """The buffers that a network updates in training mode, by kind. It leaves all others unchanged."""

    norms: dict[str, Norm] = field(default_factory=dict)  # name of the module -> its running statistics
    counters: set[str] = field(default_factory=set)  # buffers that count calls
    # buffer that is updated from the weights alone, such as the vectors of a spectral norm -> its module
    from_weights: dict[str, nn.Module] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # buffer that is updated in any other way -> in which

    @property
    def statistics(self) -> set[str]:
        """The names of all running statistics."""
        return {name for norm in self.norms.values() for name in norm.statistics.values()}


def updates(
    model: Model, state: State, inputs: Callable[[], Inputs], names: Collection[str], differing: Collection[str] = ()
) -> Updates:
    """How the network updates those of its buffers that are in `names` in training mode.

    A module that stays in evaluation mode when the network is set to training mode updates nothing.

    Args:
        model: its network may be in any mode, which is restored.
        state: of the network; it is not changed.
        inputs: () -> inputs of the model for some examples; called only if a module has to be tried.
        names: of the buffers to classify; the result has no others.
        differing: names of buffers that differ between the states which the caller interpolates. A module is tried
            only if it holds a floating-point buffer or one of these.
    """
    canonical, result = canonical_names(model.network), Updates()
    untested: dict[str, nn.Module] = {}
    training = _modules_in_training(model.network)
    for name, module in model.network.named_modules():
        local_names = {local: canonical[_full_name(name, local)] for local, _ in module.named_buffers(recurse=False)}
        local_names = {local: full for local, full in local_names.items() if full in names}
        if isinstance(module, _NormBase):
            result.counters.update(full for local, full in local_names.items() if local == "num_batches_tracked")
        if not local_names or module not in training:
            continue
        if type(module).forward not in FORWARDS:
            if any(_is_inexact(state[full]) or full in differing for full in local_names.values()):
                untested[name] = module
        elif module.track_running_stats:
            result.norms[name] = _describe_norm(module, local_names)
    if untested:
        _try_modules(model, state, select(inputs(), slice(IMAGES)), untested, canonical, names, result)
    return result


def _full_name(module: str, local: str) -> str:
    """The name in the network of the tensor `local` of the module with this name."""
    return f"{module}.{local}" if module else local


def _modules_in_training(network: nn.Module) -> set[nn.Module]:
    """The modules that are in training mode after `network.train()`."""
    with preserved_modes(network):
        network.train()
        return {module for module in network.modules() if module.training}


def _describe_norm(module: nn.Module, local_names: Mapping[str, str]) -> Norm:
    """The `Norm` of a module of PyTorch, from {name in the module: name in the network} of its buffers."""
    counters = tuple(full for local, full in local_names.items() if local == "num_batches_tracked")
    return Norm(module, {local: full for local, full in local_names.items() if full not in counters}, counters)


def _try_modules(
    model: Model,
    state: State,
    inputs: Inputs,
    modules: Mapping[str, nn.Module],
    canonical: Mapping[str, str],
    names: Collection[str],
    result: Updates,
) -> None:
    """Classify the buffers of these modules by experiment, and add them to `result`."""
    calls = _first_calls(model, state, inputs, modules)
    other_calls = _first_calls(model, state, _other_inputs(inputs), modules)
    for name, module in modules.items():
        if name not in calls or name not in other_calls:
            continue  # it is not called in evaluation mode, so the outputs that are measured do not depend on it
        prefix = _full_name(name, "")
        full_names = {n.removeprefix(prefix): full for n, full in canonical.items() if n.startswith(prefix)}
        tensors = {local: state[full] for local, full in full_names.items() if full in state}
        trial = _Trial(module, tensors, {n for n, _ in module.named_buffers(recurse=False)})
        full_names = {local: full_names[local] for local in trial.buffers if full_names[local] in names}
        try:
            trial.classify(calls[name], other_calls[name])
        except Exception as error:  # the module is the user's code and may raise anything
            reason = f"{type(module).__name__} does not run in training mode: {summary(error)}"
            result.unknown.update(dict.fromkeys(full_names.values(), reason))
            continue
        counters = tuple(full for local, full in full_names.items() if local in trial.counters)
        result.counters.update(counters)
        result.from_weights.update({full: module for n, full in full_names.items() if n in trial.from_weights})
        reason = f"{type(module).__name__} updates it in training mode, but not as a moving average of its inputs"
        result.unknown.update({full: reason for n, full in full_names.items() if n in trial.unknown})
        if averaged := {n: full for n, full in full_names.items() if n in trial.averaged}:
            result.norms[name] = Norm(module, averaged, counters, trial.rate)


def _other_inputs(inputs: Inputs) -> Inputs:
    """As many inputs, on which every norm measures other statistics.

    Floating-point inputs are no linear function of the given ones: negatives, for example, have the same variance after
    a linear layer. Of others, such as tokens and masks, each of the first examples is there twice: so every value is
    valid where it stands and fits those of the other tensors, as a mask fits its tokens. In another order the examples
    would have the same statistics. Of a single example, each of the first positions is there twice.
    """
    count = count_examples(inputs)

    def change(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() or tensor.is_complex():
            return ((tensor + tensor.roll(1, 0).flip(-1)) / 2).square()
        dim = 0 if count > 1 else -1
        return tensor.index_select(dim, torch.arange(tensor.shape[dim], device=tensor.device) // 2)

    return map_tensors(change, inputs)


def _first_calls(model: Model, state: State, inputs: Inputs, modules: Mapping[str, nn.Module]) -> dict[str, Call]:
    """{name: arguments of the module's first call} in one pass in evaluation mode; modules not called are absent."""
    calls: dict[str, Call] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(name, (_clone(args), _clone(kwargs)))

        return hook

    hooks = [m.register_forward_pre_hook(record(name), with_kwargs=True) for name, m in modules.items()]
    try:
        with preserved_modes(model.network), torch.no_grad(), repeatable_draws(next(tensors_of(inputs)).device):
            model.network.eval()
            model({n: t.clone() for n, t in state.items()}, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _clone(value: Any) -> Any:
    """A copy of arguments in tuples, lists and dicts; later layers may overwrite the originals in place."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (tuple, list):
        return type(value)(map(_clone, value))
    return {key: _clone(item) for key, item in value.items()} if type(value) is dict else value


class _Trial:
    """Classifies the buffers of one module by calling it in training mode.

    Args:
        module: the module.
        tensors: its parameters and buffers and those of its submodules, by their names in the module.
        buffers: names of the buffers that it holds itself.
    """

    def __init__(self, module: nn.Module, tensors: State, buffers: set[str]):
        self.module, self.tensors, self.buffers = module, tensors, buffers & tensors.keys()
        self.counters: set[str] = set()
        self.from_weights: set[str] = set()
        self.averaged: set[str] = set()
        self.unknown: set[str] = set()
        self.rate: float | None = None

    def classify(self, call: Call, other_call: Call) -> None:
        """Sort the buffers by how two calls with different arguments change them.

        The calls start from the values that the buffers have, and then from these in another order: a power iteration
        that has arrived no longer changes its vector, although that follows the weights.
        """
        own = {n: self.tensors[n] for n in self.buffers}
        rolled = {n: t.roll(1, 0) if t.dim() and _is_inexact(t) else t for n, t in own.items()}
        changed, input_independent = set[str](), set(self.buffers)
        for before in (own, rolled):
            (_, after), (_, after_other) = self.call(call, before), self.call(other_call, before)
            changed |= {
                n for n, t in before.items() if not torch.equal(after[n], t) or not torch.equal(after_other[n], t)
            }
            input_independent &= {n for n in self.buffers if torch.equal(after[n], after_other[n])}
        input_independent &= changed
        self.counters = {n for n in input_independent if not _is_inexact(self.tensors[n])}
        self.from_weights = input_independent - self.counters
        candidates = {n for n in changed - input_independent if _is_inexact(self.tensors[n])}
        self.unknown = changed - input_independent - candidates
        if candidates:
            self._classify_averages(call, candidates)

    def call(self, call: Call, initial: State | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The module's outputs, and its buffers after one call in training mode that starts from `initial` buffers.

        Its submodules stay in evaluation mode.
        """
        state = {n: t.clone() for n, t in {**self.tensors, **(initial or {})}.items()}
        args, kwargs = _clone(call)
        with preserved_modes(self.module), torch.no_grad(), repeatable_draws(next(iter(state.values())).device):
            self.module.eval()
            self.module.training = True
            outputs = functional_call(self.module, state, args, kwargs)
        return [t.clone() for t in output_tensors(outputs)], {n: state[n].clone() for n in self.buffers}

    def _classify_averages(self, call: Call, names: set[str]) -> None:
        """Sort buffers that depend on the inputs into moving averages and unknown ones."""
        if self._uses_momentum(call, names):
            self.averaged = names
            return
        _, after = self.call(call)
        shares = [self._kept_share(call, names, others) for others in ({}, after)]  # in the first and the next call
        if None in shares or abs(shares[0] - shares[1]) > ALIKE:  # type: ignore[operator]
            self.unknown |= names
            return
        self.averaged, self.rate = names, 1 - shares[0]  # type: ignore[operator]

    def _uses_momentum(self, call: Call, names: set[str]) -> bool:
        """Whether the module's attribute `momentum` is the weight of the newest call, as in PyTorch's norms."""
        momentum = getattr(self.module, "momentum", None)
        if not isinstance(momentum, float) and not isinstance(self.module, _NormBase):
            return False
        try:
            self.module.momentum = MOMENTUM  # type: ignore[assignment]
            kept = self._kept_share(call, names, {})
        finally:
            self.module.momentum = momentum  # type: ignore[assignment]
        return kept is not None and abs(kept - (1 - MOMENTUM)) < ALIKE

    def _kept_share(self, call: Call, names: set[str], state: State) -> float | None:
        """The share of their old values that these buffers keep in a call; None if they are no moving averages.

        They are moving averages if the share is the same for all their numbers and the module's outputs do not depend
        on the old values. `state`: initial values of its other tensors, where these differ from the trial's.
        """
        zero = {n: torch.zeros_like(self.tensors[n]) for n in names}
        outputs, from_zero = self.call(call, {**state, **zero})
        size = {n: LARGE * max(1.0, from_zero[n].abs().max().item()) for n in names}
        outputs_from_large, from_large = self.call(call, {**state, **{n: z + size[n] for n, z in zero.items()}})
        if not all(torch.allclose(a, b, equal_nan=True) for a, b in zip(outputs, outputs_from_large, strict=True)):
            return None
        shares = torch.cat(
            [((from_large[n] - from_zero[n]) / size[n]).real.reshape(-1).double() for n in sorted(names)]
        )
        share = shares.mean().item()
        return share if (shares - share).abs().max() < ALIKE and -ALIKE < share < 1 - ALIKE else None


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
