"""How a network updates its buffers in training mode: which are running statistics, counters, or follow the weights.

The norms of PyTorch are known by their code. Every other module that holds buffers is judged by what it does with them:
it is called in training mode on inputs that it gets for a small batch, beginning with other values of its buffers, and
on inputs of another batch. No class and no network is known by name.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from neuralign.common.seeding import drawn_alike
from neuralign.networks.foreign_networks import summary
from neuralign.networks.model import Model, State, first_names, modes_kept
from neuralign.networks.outputs import heads

FORWARDS = {_BatchNorm.forward, nn.SyncBatchNorm.forward, _InstanceNorm.forward}
IMAGES = 8  # of a batch on which modules are judged
LARGE = 1e4  # what a running statistic begins with, in units of its own size, to see how much of it is left
ALIKE = 1e-3  # by how much two shares may differ that should be one
MOMENTUM = 0.25  # set to see whether a module takes its `momentum` as PyTorch's norms do

Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments of a module


@dataclass(frozen=True)
class Norm:
    """A module that keeps running statistics of its inputs: moving averages that only evaluation mode uses."""

    module: nn.Module
    statistics: Mapping[str, str]  # name in the module -> name in the network
    counters: tuple[str, ...] = ()  # names in the network of what counts its calls
    rate: float | None = None  # the weight of a call in its average; None: its `momentum` is that weight


@dataclass(frozen=True)
class Updates:
    """What a network does with its buffers in training mode; one that is named nowhere here is left alone."""

    norms: dict[str, Norm] = field(default_factory=dict)  # by the module's name
    counters: set[str] = field(default_factory=set)  # of calls
    following: dict[str, nn.Module] = field(default_factory=dict)  # depends on the weights alone -> whose it is
    unknown: dict[str, str] = field(default_factory=dict)  # updated by no rule that is known -> what is known

    @property
    def statistics(self) -> set[str]:
        """The names of all running statistics."""
        return {name for norm in self.norms.values() for name in norm.statistics.values()}


def updates(
    model: Model, state: State, pixels: Callable[[], Tensor], names: Collection[str], differing: Collection[str] = ()
) -> Updates:
    """What the network does with the buffers of these names; `pixels()` (n, c, h, w) in [0, 1] is asked for if needed.

    Modules are judged only if they hold a floating buffer, or one of the `differing`. One that the network's own
    `train()` leaves in evaluation mode updates nothing: its norms are frozen.
    """
    first, found = first_names(model.network), Updates()
    suspects: dict[str, nn.Module] = {}
    training = _training(model.network)
    for name, module in model.network.named_modules():
        own = {local: first[_full(name, local)] for local, _ in module.named_buffers(recurse=False)}
        own = {local: full for local, full in own.items() if full in names}
        if isinstance(module, _NormBase):
            found.counters.update(full for local, full in own.items() if local == "num_batches_tracked")
        if not own or module not in training:
            continue
        if type(module).forward not in FORWARDS:
            if any(_is_inexact(state[full]) or full in differing for full in own.values()):
                suspects[name] = module
        elif module.track_running_stats:
            found.norms[name] = _plain_norm(module, own)
    if suspects:
        _judge(model, state, pixels()[:IMAGES], suspects, first, names, found)
    return found


def _full(module: str, local: str) -> str:
    return f"{module}.{local}" if module else local


def _training(network: nn.Module) -> set[nn.Module]:
    """The modules that are in training mode when the network is."""
    with modes_kept(network):
        network.train()
        return {module for module in network.modules() if module.training}


def _plain_norm(module: nn.Module, own: Mapping[str, str]) -> Norm:
    counters = tuple(full for local, full in own.items() if local == "num_batches_tracked")
    return Norm(module, {local: full for local, full in own.items() if full not in counters}, counters)


def _judge(
    model: Model,
    state: State,
    pixels: Tensor,
    suspects: Mapping[str, nn.Module],
    first: Mapping[str, str],
    names: Collection[str],
    found: Updates,
) -> None:
    """Add to `found` what these modules do."""
    calls = _calls(model, state, pixels, suspects)
    others = _calls(model, state, _other(pixels), suspects)
    for name, module in suspects.items():
        if name not in calls or name not in others:
            continue  # not called in evaluation mode, so nothing that is measured depends on it
        prefix = _full(name, "")
        tensors = {n.removeprefix(prefix): state[f] for n, f in first.items() if n.startswith(prefix) and f in state}
        tried = _Trial(module, tensors, {n for n, _ in module.named_buffers(recurse=False)})
        own = {local: first[_full(name, local)] for local in tried.buffers if first[_full(name, local)] in names}
        try:
            tried.judge(calls[name], others[name])
        except Exception as error:  # the code is anybody's, and so are its errors
            reason = f"{type(module).__name__} does not run in training mode: {summary(error)}"
            found.unknown.update(dict.fromkeys(own.values(), reason))
            continue
        found.counters.update(own[n] for n in tried.counters if n in own)
        found.following.update({own[n]: module for n in tried.following if n in own})
        unknown = f"{type(module).__name__} updates it in training mode, but not as a moving average of its inputs"
        found.unknown.update({own[n]: unknown for n in tried.unknown if n in own})
        if averaged := {n: own[n] for n in tried.averaged if n in own}:
            counters = tuple(own[n] for n in tried.counters if n in own)
            found.norms[name] = Norm(module, averaged, counters, tried.rate)


def _other(pixels: Tensor) -> Tensor:
    """Other images. A linear layer makes the same variance of negatives; of these no norm measures the same."""
    return ((pixels + pixels.roll(1, 0).flip(-1)) / 2).square()


def _calls(model: Model, state: State, pixels: Tensor, modules: Mapping[str, nn.Module]) -> dict[str, Call]:
    """The arguments of the first call of every module, in evaluation mode."""
    calls: dict[str, Call] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(name, (_cloned(args), _cloned(kwargs)))

        return hook

    hooks = [m.register_forward_pre_hook(note(name), with_kwargs=True) for name, m in modules.items()]
    try:
        with modes_kept(model.network), torch.no_grad(), drawn_alike(pixels.device):
            model.network.eval()
            model({n: t.clone() for n, t in state.items()}, pixels)
    finally:
        for each in hooks:
            each.remove()
    return calls


def _cloned(held: Any) -> Any:
    """A copy of arguments, for what comes later may overwrite them."""
    if isinstance(held, Tensor):
        return held.detach().clone()
    if type(held) in (tuple, list):
        return type(held)(map(_cloned, held))
    return {key: _cloned(value) for key, value in held.items()} if type(held) is dict else held


class _Trial:
    """One module, called in training mode to see what becomes of the buffers that are its own."""

    def __init__(self, module: nn.Module, tensors: State, buffers: set[str]):
        self.module, self.tensors, self.buffers = module, tensors, buffers & tensors.keys()
        self.counters: set[str] = set()
        self.following: set[str] = set()
        self.averaged: set[str] = set()
        self.unknown: set[str] = set()
        self.rate: float | None = None

    def judge(self, call: Call, other: Call) -> None:
        """Sort the buffers by what becomes of them in two calls on different inputs."""
        (_, after), (_, differently) = self.call(call), self.call(other)
        changed = {n for n in self.buffers if not _same(after[n], self.tensors[n])}
        changed |= {n for n in self.buffers if not _same(differently[n], self.tensors[n])}
        alike = {n for n in changed if _same(after[n], differently[n])}
        self.counters = {n for n in alike if not _is_inexact(self.tensors[n])}
        self.following = alike - self.counters
        average = {n for n in changed - alike if _is_inexact(self.tensors[n])}
        self.unknown = changed - alike - average
        if average:
            self._judge_average(call, average, after)

    def call(self, call: Call, begin: State | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What the module returns in training mode, what is below it in evaluation mode, and its buffers then."""
        held = {n: t.clone() for n, t in {**self.tensors, **(begin or {})}.items()}
        args, kwargs = _cloned(call)
        with modes_kept(self.module), torch.no_grad(), drawn_alike(next(iter(held.values())).device):
            self.module.eval()
            self.module.training = True
            outputs = functional_call(self.module, held, args, kwargs)
        return [t.clone() for t in heads(outputs)], {n: held[n].clone() for n in self.buffers}

    def _judge_average(self, call: Call, names: set[str], after: State) -> None:
        if self._obeys(call, names):
            self.averaged = names
            return
        shares = self._kept(call, names, {}), self._kept(call, names, after)  # of the next call, too
        if None in shares or abs(shares[0] - shares[1]) > ALIKE:  # type: ignore[operator]
            self.unknown |= names
            return
        self.averaged, self.rate = names, 1 - shares[0]  # type: ignore[operator]

    def _obeys(self, call: Call, names: set[str]) -> bool:
        """Whether the module takes its attribute `momentum` as PyTorch's norms do."""
        own = getattr(self.module, "momentum", None)
        if not isinstance(own, float) and not isinstance(self.module, _NormBase):
            return False
        try:
            self.module.momentum = MOMENTUM  # type: ignore[assignment]
            kept = self._kept(call, names, {})
        finally:
            self.module.momentum = own  # type: ignore[assignment]
        return kept is not None and abs(kept - (1 - MOMENTUM)) < ALIKE

    def _kept(self, call: Call, names: set[str], state: State) -> float | None:
        """The share of its old value that every running statistic keeps in a call; None where there is no such share.

        There is one if it is the same for all numbers, and if the module returns the same whatever the old values are.
        """
        zero = {n: torch.zeros_like(self.tensors[n]) for n in names}
        outputs, low = self.call(call, {**state, **zero})
        size = {n: LARGE * max(1.0, low[n].abs().max().item()) for n in names}
        others, high = self.call(call, {**state, **{n: z + size[n] for n, z in zero.items()}})
        if not all(torch.allclose(a, b, equal_nan=True) for a, b in zip(outputs, others, strict=True)):
            return None
        shares = torch.cat([((high[n] - low[n]) / size[n]).real.reshape(-1).double() for n in sorted(names)])
        share = shares.mean().item()
        return share if (shares - share).abs().max() < ALIKE and -ALIKE < share < 1 - ALIKE else None


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
