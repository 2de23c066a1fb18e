"""Running a network with every head and nothing left to chance, operation by operation."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from neuralign.common.errors import Refused
from neuralign.networks.caches import uncached
from neuralign.networks.model import State, substituted

Operation = Any  # an overload of torch.ops.aten
HELD = "<whole>"  # the one attribute of a wrapper, of a name that no layer can have
RECOMPUTED = "None of the inputs have requires_grad=True"  # torch.utils.checkpoint, where no gradient is wanted
# the same operation on another device
SAME = dict.fromkeys(("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update"), "native_batch_norm")


def name_of(operation: Operation) -> str:
    """The name of an operation of ATen, without its overload and whether it is in place."""
    name = operation._overloadpacket.__name__
    return SAME.get(name, name if name.startswith("__") else name.rstrip("_"))


class Certain(TorchDispatchMode):
    """Runs operations with the mean in place of what is drawn at random, so that dropout passes its input on."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled; torch would import its compiler, two seconds, to say so."""
        return False

    def __torch_dispatch__(
        self, func: Operation, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation."""
        name = func._overloadpacket.__name__
        if name == "bernoulli_" and isinstance(p := _probability(args, kwargs), float):
            return args[0].fill_(p)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name.startswith("_scaled_dot_product"):
            names = [a.name for a in func._schema.arguments]
            args = tuple(0.0 if n == "dropout_p" else a for n, a in zip(names, args, strict=False))
            kwargs = {k: v for k, v in kwargs.items() if k != "dropout_p"}
        if name == "native_batch_norm_backward":  # torch 2.14 misreads a gradient of one image on strides of its own
            args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
        return func(*args, **kwargs)


def is_drawn(func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a result is drawn at random under `Certain`, too."""
    name = func._overloadpacket.__name__
    if name == "native_dropout" or name.startswith("_scaled_dot_product"):
        return False
    if name == "bernoulli_" and isinstance(_probability(args, kwargs), float):
        return False
    return torch.Tag.nondeterministic_seeded in func.tags


def _probability(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("p", 0.5)


RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


class Unfused(TorchFunctionMode):
    """Runs recurrent layers step by step, whatever the type of their numbers, and not by the one kernel of a library.

    Only the steps show what is joined with what, and only so does every type run the same operations.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in RECURRENT:
            return func(*args, **(kwargs or {}))
        libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
        before = [library.enabled for library in libraries]
        for library in libraries:
            library.enabled = False
        try:
            return func(*args, **(kwargs or {}))
        finally:
            for library, enabled in zip(libraries, before, strict=True):
                library.enabled = enabled


@dataclass(frozen=True)
class Whole:
    """A network and how it is run: with nothing left to chance, some of its modules as in training, the others not.

    It is no module, so that none of its names hides one of the network's.
    """

    network: nn.Module  # in evaluation mode
    training: frozenset[str] = frozenset()  # the names of the modules that run as in training

    @contextmanager
    def running(self, state: State, mode: Certain | None = None) -> Iterator[dict[str, Tensor]]:
        """A block in which the network runs so with the tensors of `state`, in the forward and in the backward pass.

        Buffers of `state` are written to where the network does. Yields what `networks.substituted` does.
        """
        modules = [m for name, m in self.network.named_modules() if name in self.training]
        before = [module.training for module in modules]
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one operation that hides what attention is made of
        for module in modules:
            module.training = True
        try:
            with substituted(self.network, state) as held, warnings.catch_warnings(), Unfused(), mode or Certain():
                warnings.filterwarnings("ignore", RECOMPUTED)
                yield held
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, training in zip(modules, before, strict=True):
                module.training = training

    def __call__(self, x: Tensor, state: State | None = None, mode: Certain | None = None) -> Any:
        """What the network makes of `x`; with the tensors of `state`, where given, of which no buffer is written to.

        It keeps nothing of the call.
        """
        with uncached(self.network.modules()), self.running(spared(self.network, state or {}), mode):
            return self.network(x)


class WholeModule(nn.Module):
    """A `Whole` as a module, which runs so whatever mode it is set to: the network's tensors under their own names."""

    def __init__(self, whole: Whole):
        super().__init__()
        network = whole.network
        self._parameters, self._buffers, self._modules = network._parameters, network._buffers, network._modules
        vars(self)[HELD] = whole

    def forward(self, x: Tensor) -> Any:
        whole: Whole = vars(self)[HELD]
        with uncached(whole.network.modules()), whole.running({}):
            return whole.network(x)


def spared(network: nn.Module, state: State) -> dict[str, Tensor]:
    """The tensors of `state`, else of `network`, with buffers copied: a run may write to those, or assign others."""
    own = dict(network.named_buffers())
    given = {**own, **state}
    copies = {id(t): t.detach().clone() if n in own else t.detach() for n, t in given.items()}
    return {n: copies[id(t)] for n, t in given.items()}  # what was one tensor of two names stays one


def copied(network: nn.Module, *, parameters: bool = False) -> nn.Module:
    """The network in evaluation mode, with its own buffers and modes, whose layers overwrite no activation.

    It shares its parameters with `network`, unless it is to have `parameters` of its own, which a run may change. Where
    the network's own `train` changes weights, as adapters are merged into others, it is not called: a state of the
    network is of the mode that the network is in.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise Refused("a compiled network of torch.jit; give the network that it was made of")
    changeable = any(type(m).train is not nn.Module.train for m in network.modules())
    twin = _copied(network, parameters or changeable)
    if changeable:
        twin.train()  # a network's own way to forget what it computed from its weights
    twin.eval()
    if changeable and not all(map(torch.equal, twin.parameters(), network.parameters())):
        twin = _copied(network, True)
        for module in twin.modules():
            module.training = False
    for module in twin.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return twin


def _copied(network: nn.Module, parameters: bool) -> nn.Module:
    shared = {id(t): t.detach() for m in network.modules() for t in _computed(vars(m))}
    if not parameters:
        shared |= {id(p): p for p in network.parameters()}
    try:
        return deepcopy(network, shared)
    except (TypeError, RuntimeError) as error:
        raise Refused(f"a network that cannot be copied: {error}") from error


def _computed(value: Any) -> Iterator[Tensor]:
    """Tensors that autograd made, which cannot be copied, among the attributes of a module and in its containers."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, dict | list | tuple | set):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _computed(part)


class Unread(RuntimeError):
    """An activation that a run did not compute."""


@dataclass(frozen=True)
class Read:
    """Where in a run a tensor is read, and how its units come to lie on axis 1."""

    operation: str
    ordinal: int  # of the operations of this name
    dim: int
    factors: tuple[int, ...] = ()  # of a part of the axis: sizes, outer to inner; () for the whole axis
    start: int = 0  # of that part
    units: int = 0  # which of the factors the units are
    averaged: tuple[int, ...] = ()  # which of the factors are averaged over
    pooled: tuple[int, ...] = ()  # other axes averaged over, whose order is no data

    def of(self, tensor: Tensor) -> Tensor:
        """(n, units, ...)."""
        dim = self.dim
        if self.pooled:
            tensor = tensor.mean(self.pooled, keepdim=True)
        if self.factors:
            tensor = tensor.narrow(dim, self.start, prod(self.factors)).unflatten(dim, self.factors)
            if self.averaged:
                tensor = tensor.mean([dim + i for i in self.averaged])
            dim += self.units - sum(i < self.units for i in self.averaged)
        return tensor if dim == 1 else tensor.movedim(dim, 1)


@dataclass(frozen=True)
class Probe:
    """What is read of a network's run on one input: a tensor (n, units, ...) for each of the `reads`.

    Maps of more than `largest` rows are halved where they are read, until they have no more, and go on halved.
    """

    whole: Whole
    reads: Mapping[str, Read]
    largest: int | None = None

    def __call__(self, x: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """The activations, with the tensors of `state` where it is given, of which no buffer is written to."""
        reading = Reading({(r.operation, r.ordinal) for r in self.reads.values()}, self.largest)
        self.whole(x, state, reading)
        for name, read in self.reads.items():
            if (read.operation, read.ordinal) not in reading.found:
                raise Unread(f"activation {name!r}: not computed for this input, though it was when traced")
        return tuple(read.of(reading.found[read.operation, read.ordinal]) for read in self.reads.values())


class Reading(Certain):
    """Keeps the results of the wanted operations as they were when computed."""

    def __init__(self, wanted: set[tuple[str, int]], largest: int | None):
        super().__init__()
        self.wanted, self.largest = wanted, largest
        self.names = {name for name, _ in wanted}
        self.found: dict[tuple[str, int], Tensor] = {}
        self.counts = dict.fromkeys(self.names, 0)
        self.known: dict[Operation, tuple[str, bool]] = {}

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func not in self.known:
            self.known[func] = name_of(func), func._schema.is_mutable
        name, mutable = self.known[func]
        if mutable and self.found:
            self.protect(args[0])
        out = super().run(func, args, kwargs)
        if name not in self.names:
            return out
        place = (name, self.counts[name])
        self.counts[name] += 1
        if place not in self.wanted:
            return out
        first = out if isinstance(out, Tensor) else out[0]
        halved = _halve(first, self.largest)
        if halved is not first and mutable:
            raise ValueError(f"torch.{name}_ works in place: its activation cannot be halved (option largest)")
        self.found[place] = halved
        return out if halved is first else halved if out is first else (halved, *out[1:])

    def protect(self, overwritten: Any) -> None:
        """Copy what was read of memory that is about to be overwritten."""
        if isinstance(overwritten, Tensor):
            memory = overwritten.untyped_storage()._cdata
            for place, tensor in self.found.items():
                if tensor.untyped_storage()._cdata == memory:
                    self.found[place] = tensor.clone()


def _halve(activation: Tensor, largest: int | None) -> Tensor:
    """Every second row and column of maps (n, c, h, w) that are larger than `largest`, again until they are not: were
    they halved once for each activation, a residual branch would be smaller than its stream.
    """
    while largest is not None and activation.dim() == 4 and activation.shape[-1] > largest:
        activation = activation[..., ::2, ::2]
    return activation
