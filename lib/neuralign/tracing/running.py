"""Running a network with every head and nothing left to chance, operation by operation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, is_dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from neuralign.refusals import Refused
from neuralign.seeding import aside, global_generator

Operation = Any  # an overload of torch.ops.aten
# the same operation on another device
SAME = dict.fromkeys(("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update"), "native_batch_norm")


FLOATS = (torch.float16, torch.bfloat16, torch.float32)
COARSE = (Tensor.float, Tensor.half, Tensor.bfloat16)


def name_of(operation: Operation) -> str:
    """The name of an operation of ATen, without its overload and whether it is in place."""
    name = operation._overloadpacket.__name__
    return SAME.get(name, name if name.startswith("__") else name.rstrip("_"))


@contextmanager
def drawn_alike(device: torch.device) -> Iterator[None]:
    """What a network draws at random is the same in every run, and no one else's draws change."""
    with aside(device):
        for each in (torch.device("cpu"), device):
            global_generator(each).manual_seed(0)
        yield


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
        if name == "bernoulli_" and isinstance(p := (args[1] if len(args) > 1 else kwargs.get("p", 0.5)), float):
            return args[0].fill_(p)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name.startswith("_scaled_dot_product"):
            place = [a.name for a in func._schema.arguments].index("dropout_p")
            args = tuple(0.0 if i == place else a for i, a in enumerate(args))
            kwargs = {k: v for k, v in kwargs.items() if k != "dropout_p"}
        return func(*args, **kwargs)


class Doubled(TorchFunctionMode):
    """Runs in float64 what a network's own code would cast to a coarser type, as norms of language models do."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in COARSE:
            return args[0].double()
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a.is_floating_point else a for a in args)
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in FLOATS:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class Whole(nn.Module):
    """A network with all its heads: what is not of torch.nn runs as in training, norms and dropout as they are set.

    Has the network's parameters under the network's names. `eval()` sets norms and dropout to evaluation.
    """

    network: nn.Module  # no submodule: the names are its own
    made: list[nn.Module]  # the modules that are not of torch.nn, and the network itself
    as_training: bool  # False: all runs as in evaluation, where training leaves layers out

    def __init__(self, network: nn.Module, *, training: bool = True):
        super().__init__()
        self._parameters, self._buffers, self._modules = network._parameters, network._buffers, network._modules
        made = [m for m in network.modules() if not _is_of_torch(m) and any(m.children())]
        self.__dict__.update(network=network, made=[network, *made], as_training=training)

    def mode(self) -> Certain:
        """The mode that operations run under."""
        return Certain()

    def forward(self, x: Tensor) -> Any:
        fast = torch.backends.mha.get_fastpath_enabled()
        before = [module.training for module in self.made]
        torch.backends.mha.set_fastpath_enabled(False)  # one operation that hides what attention is made of
        for module in self.made:
            module.training = self.as_training and not _is_of_torch(module)
        try:
            with self.mode():
                return self.network(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, training in zip(self.made, before, strict=True):
                module.training = training


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def copied(network: nn.Module) -> nn.Module:
    """The network with the same parameters but its own buffers and modes, whose layers overwrite no activation."""
    if isinstance(network, torch.jit.ScriptModule):
        raise Refused("a compiled network of torch.jit; give the network that it was made of")
    held = [t for m in network.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    shared = {id(p): p for p in network.parameters()} | {id(t): t.detach() for t in held}
    try:
        twin = deepcopy(network, shared)
    except (TypeError, RuntimeError) as error:
        raise Refused(f"a network that cannot be copied: {error}") from error
    for module in twin.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return twin.eval()


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


class Probe(Whole):
    """A network that gives what is read of one input: a tensor (n, units, ...) for each of the `reads`.

    Maps of more than `largest` rows are halved where they are read, until they have no more, and go on halved.
    """

    reads: dict[str, Read]
    largest: int | None
    reading: "Reading"

    def __init__(
        self, network: nn.Module, reads: Mapping[str, Read], largest: int | None = None, *, training: bool = True
    ):
        super().__init__(network, training=training)
        self.__dict__.update(reads=dict(reads), largest=largest)

    def mode(self) -> "Reading":
        self.__dict__["reading"] = Reading({(r.operation, r.ordinal) for r in self.reads.values()}, self.largest)
        return self.reading

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        super().forward(x)
        found = self.reading.found
        for name, read in self.reads.items():
            if (read.operation, read.ordinal) not in found:
                raise Unread(f"activation {name!r}: not computed for this input, though it was when traced")
        return tuple(read.of(found[read.operation, read.ordinal]) for read in self.reads.values())


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


def heads(outputs: Any) -> list[Tensor]:
    """All tensors of what a network returns; refused is what may hold some where nobody looks."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if outputs is None or isinstance(outputs, str | bool | int | float):
        return []
    if isinstance(outputs, Mapping):
        parts = list(outputs.values())
    elif is_dataclass(outputs):
        parts = list(vars(outputs).values())
    elif isinstance(outputs, Sequence):
        parts = list(outputs)
    else:
        raise Refused(
            f"the network returns a {type(outputs).__name__}; tensors, or tuples, lists, mappings or "
            "dataclasses of them are wanted"
        )
    return [t for part in parts for t in heads(part)]
