"""Runs a network deterministically, with some of its modules in training mode, and reads activations of such a run."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from neuralign.common.errors import UserError
from neuralign.datasets.batches import Inputs, call
from neuralign.networks.caches import preserved_attributes
from neuralign.networks.model import State, substituted
from neuralign.symmetry.tracing.call import tensors_in

Operation = Any  # an overload of torch.ops.aten
WRAPPED = "<network>"  # the only attribute of a `DeterministicModule`; no layer can have this name
RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
NO_GRADIENT = "None of the inputs have requires_grad=True"  # a warning of torch.utils.checkpoint
# operations that do on some devices what the second operation does on others
SYNONYMS = dict.fromkeys(("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update"), "native_batch_norm")


def operation_name(operation: Operation) -> str:
    """The name of an operation of ATen: one for all its overloads, its in-place form and its SYNONYMS."""
    name = operation._overloadpacket.__name__
    return SYNONYMS.get(name, name if name.startswith("__") else name.rstrip("_"))


def bind(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an operation by name, with their defaults."""
    arguments = {a.name: a.default_value for a in operation._schema.arguments if a.has_default_value()}
    return arguments | dict(zip((a.name for a in operation._schema.arguments), args, strict=False)) | kwargs


def written_tensors(operation: Operation, arguments: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments, by name, that an operation writes to."""
    written = [a.name for a in operation._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return list(tensors_in(arguments[name] for name in written))


def memory_of(tensor: Tensor) -> int:
    """An identifier of a tensor's storage, equal for all its views."""
    return tensor.untyped_storage()._cdata


class DeterministicMode(TorchDispatchMode):
    """Replaces every random mask of dropout by its mean, so that dropout returns its input."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: torch would import its compiler, which takes two seconds, only to skip it here."""
        return False

    def __torch_dispatch__(
        self, func: Operation, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation, which subclasses may record or replace."""
        name = func._overloadpacket.__name__
        if name == "bernoulli_" and isinstance(probability := _probability(args, kwargs), float):
            return args[0].fill_(probability)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name.startswith("_scaled_dot_product"):
            names = [a.name for a in func._schema.arguments]
            args = tuple(0.0 if n == "dropout_p" else a for n, a in zip(names, args, strict=False))
            kwargs = {k: v for k, v in kwargs.items() if k != "dropout_p"}
        if name == "native_batch_norm_backward":  # torch 2.14 misreads a gradient of one image with unusual strides
            args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
        return func(*args, **kwargs)


def is_random(func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result of an operation is random even under `DeterministicMode`."""
    name = func._overloadpacket.__name__
    if name == "native_dropout" or name.startswith("_scaled_dot_product"):
        return False
    if name == "bernoulli_" and isinstance(_probability(args, kwargs), float):
        return False
    return torch.Tag.nondeterministic_seeded in func.tags


def _probability(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The probability of a call of `bernoulli_`: a number, or a tensor of one per element."""
    return args[1] if len(args) > 1 else kwargs.get("p", 0.5)


class UnfusedRecurrence(TorchFunctionMode):
    """Runs recurrent layers step by step instead of by one fused kernel of mkldnn or cudnn.

    A fused kernel hides which axes it joins, and exists for some dtypes only; without it all dtypes run the same
    operations.
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
class DeterministicNetwork:
    """A network that runs without dropout, with some of its modules in training mode and the others in evaluation mode.

    It is not an nn.Module, so that none of its attributes can hide a layer of the same name.
    """

    network: nn.Module  # all modules in evaluation mode
    training: frozenset[str] = frozenset()  # names of the modules that run in training mode

    @contextmanager
    def running(self, state: State, mode: DeterministicMode | None = None) -> Iterator[dict[str, Tensor]]:
        """A block in which the network has these modes and the tensors of `state`, in forward and backward passes.

        If the network updates buffers, those of `state` change. Yields a copy of the mapping `state`, which after a run
        also has the tensors that the network replaced by assignment. `mode`: sees all operations of the block.
        """
        modules = [m for name, m in self.network.named_modules() if name in self.training]
        previous = [module.training for module in modules]
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one operation, which hides how attention joins its operands
        for module in modules:
            module.training = True
        quiet, current = warnings.catch_warnings(), substituted(self.network, state)
        try:
            with current as tensors, quiet, UnfusedRecurrence(), mode or DeterministicMode():
                warnings.filterwarnings("ignore", NO_GRADIENT)
                yield tensors
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for module, training in zip(modules, previous, strict=True):
                module.training = training

    def __call__(self, inputs: Inputs, state: State | None = None, mode: DeterministicMode | None = None) -> Any:
        """The network's outputs with the tensors of `state` in place of its own; no buffer and no attribute changes."""
        with (
            preserved_attributes(self.network.modules()),
            self.running(with_copied_buffers(self.network, state or {}), mode),
        ):
            return call(self.network, inputs)


class DeterministicModule(nn.Module):
    """A `DeterministicNetwork` as a module with the network's names of tensors. Its `train` and `eval` do nothing."""

    def __init__(self, runnable: DeterministicNetwork):
        super().__init__()
        network = runnable.network
        self._parameters, self._buffers, self._modules = network._parameters, network._buffers, network._modules
        vars(self)[WRAPPED] = runnable

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        runnable: DeterministicNetwork = vars(self)[WRAPPED]
        with preserved_attributes(runnable.network.modules()), runnable.running({}):
            return runnable.network(*args, **kwargs)


def with_copied_buffers(network: nn.Module, state: State) -> dict[str, Tensor]:
    """The tensors of `state`, the buffers copied, and copies of the buffers of `network` that it lacks.

    So a run may overwrite buffers and change neither. Names that share a tensor share its copy.
    """
    buffers = dict(network.named_buffers())
    tensors = {**buffers, **state}
    copies = {id(t): t.detach().clone() if n in buffers else t.detach() for n, t in tensors.items()}
    return {n: copies[id(t)] for n, t in tensors.items()}


def evaluation_copy(network: nn.Module) -> nn.Module:
    """A copy of the network in evaluation mode, with its own buffers and without the option `inplace` of its layers.

    It shares its parameters with `network`. If the network overrides `train` with code that changes its weights, such
    as merging adapters into them, the copy has its own, with the weights of the mode that `network` is in. Raises
    UserError if the network cannot be copied.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError("a network compiled by torch.jit cannot be traced; give the module that it was compiled from")
    overrides_train = any(type(m).train is not nn.Module.train for m in network.modules())
    twin = _deepcopy(network, overrides_train)
    if overrides_train:
        twin.train()  # so that the network drops what it computed from its weights for evaluation mode
        keeps_weights = _have_equal_parameters(twin, network)
    twin.eval()
    if overrides_train and not _have_equal_parameters(twin, network):
        twin = _deepcopy(network, True)  # whose modes are set without `train`, which would change the weights
        for module in twin.modules():
            module.training = False
    elif overrides_train and keeps_weights:
        for copied, parameter in zip(twin.parameters(), network.parameters(), strict=True):
            copied.data = parameter.data
    for module in twin.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return twin


def _have_equal_parameters(network: nn.Module, other: nn.Module) -> bool:
    """Whether the parameters of both have equal values; on the meta device there are none that could differ."""
    pairs = list(zip_longest(network.parameters(), other.parameters()))
    return all(a is not None and b is not None and (a.is_meta or torch.equal(a, b)) for a, b in pairs)


def _deepcopy(network: nn.Module, parameters: bool) -> nn.Module:
    """A deep copy, with copies of the parameters, or with those of `network`."""
    memo = {id(t): t.detach() for m in network.modules() for t in _computed_tensors(vars(m))}  # see copy.deepcopy
    if not parameters:
        memo |= {id(p): p for p in network.parameters()}
    try:
        return deepcopy(network, memo)
    except (TypeError, RuntimeError) as error:
        raise UserError(f"the network cannot be copied by copy.deepcopy: {error}") from error


def _computed_tensors(value: Any) -> Iterator[Tensor]:
    """Tensors with an autograd history, which deepcopy refuses, among the attributes of a module."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, dict | list | tuple | set):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _computed_tensors(part)


class NotComputed(RuntimeError):
    """A run did not compute an activation that is to be read."""


@dataclass(frozen=True)
class ReadPoint:
    """The operation whose result holds an activation, and the dimension of the result that holds the units.

    If the units are one factor of a part of that dimension, this part is taken out and unflattened into its factors.
    """

    operation: str
    ordinal: int  # of the operation among those of its name, from 0
    dim: int
    factors: tuple[int, ...] = ()  # sizes of the factors of the part, outer to inner; () for the whole dimension
    start: int = 0  # of the part
    units: int = 0  # the position of the units among the factors
    averaged_factors: tuple[int, ...] = ()  # positions of the factors that are averaged over
    averaged_dims: tuple[int, ...] = ()  # other dimensions that are averaged over, because they may be permuted too

    def activation(self, tensor: Tensor) -> Tensor:
        """The activation (n, units, ...) that `tensor`, the result of the operation, holds."""
        dim = self.dim
        if self.averaged_dims:
            tensor = tensor.mean(self.averaged_dims, keepdim=True)
        if self.factors:
            tensor = tensor.narrow(dim, self.start, prod(self.factors)).unflatten(dim, self.factors)
            if self.averaged_factors:
                tensor = tensor.mean([dim + i for i in self.averaged_factors])
            dim += self.units - sum(i < self.units for i in self.averaged_factors)
        return tensor if dim == 1 else tensor.movedim(dim, 1)


@dataclass(frozen=True)
class Probe:
    """Runs a network on inputs and returns an activation (n, units, ...) for each of the `reads`, in their order.

    Feature maps (n, c, h, w) wider than `largest` are halved where they are read until they are no wider; the network
    goes on with the smaller maps.
    """

    network: DeterministicNetwork
    reads: Mapping[str, ReadPoint]  # node of a tap -> where it is read
    largest: int | None = None

    def __call__(self, inputs: Inputs, state: State | None = None) -> tuple[Tensor, ...]:
        """The activations with the tensors of `state` in place of the network's; NotComputed if one is missing."""
        mode = ReadingMode({(r.operation, r.ordinal) for r in self.reads.values()}, self.largest)
        self.network(inputs, state, mode)
        for name, read in self.reads.items():
            if (read.operation, read.ordinal) not in mode.results:
                raise NotComputed(f"activation {name!r} is not computed for this input, though it was when traced")
        return tuple(read.activation(mode.results[read.operation, read.ordinal]) for read in self.reads.values())


class ReadingMode(DeterministicMode):
    """Keeps the results of the operations `calls`, (name, ordinal), as they were before anything overwrote them."""

    def __init__(self, calls: set[tuple[str, int]], largest: int | None):
        super().__init__()
        self.calls, self.largest = calls, largest
        self.results: dict[tuple[str, int], Tensor] = {}
        self.counts = dict.fromkeys((name for name, _ in calls), 0)  # name of an operation -> its calls so far
        self.names: dict[Operation, tuple[str, bool]] = {}  # operation -> its name, whether it works in place

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func not in self.names:
            self.names[func] = operation_name(func), func._schema.is_mutable
        name, mutable = self.names[func]
        if mutable and self.results:
            self._protect(written_tensors(func, bind(func, args, kwargs)))
        out = super().run(func, args, kwargs)
        if name not in self.counts:
            return out
        call = (name, self.counts[name])
        self.counts[name] += 1
        if call not in self.calls:
            return out
        first = out if isinstance(out, Tensor) else out[0]
        activation = _subsampled(first, self.largest)
        self.results[call] = activation
        if activation is first:
            return out
        if mutable:
            raise ValueError(f"torch.{name}_ works in place: its activation cannot be halved (option largest)")
        return activation if out is first else (activation, *out[1:])

    def _protect(self, overwritten: Sequence[Tensor]) -> None:
        """Copy the kept results that lie in the memory of operands that are about to be overwritten."""
        memories = set(map(memory_of, overwritten))
        self.results |= {call: t.clone() for call, t in self.results.items() if memory_of(t) in memories}


def _subsampled(activation: Tensor, largest: int | None) -> Tensor:
    """Every second row and column of feature maps (n, c, h, w), taken again until they are no wider than `largest`.

    If every activation were halved once, a residual branch would become smaller than its shortcut.
    """
    while largest is not None and activation.dim() == 4 and activation.shape[-1] > largest:
        activation = activation[..., ::2, ::2]
    return activation
