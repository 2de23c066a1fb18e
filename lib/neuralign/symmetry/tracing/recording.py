"""One run of a network in which every tensor carries what is known of its axes.

Operations are seen as ATen runs them, so that control flow, functions, methods and modules look all alike. A tensor is
known by where it lies in memory: views of the same place have the same axes.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.symmetry.tracing.axes import Axis, freeze, positions, unify
from neuralign.symmetry.tracing.execution import Certain, Operation, is_drawn, name_of

Axes = tuple[Axis, ...]  # one for every dimension of a tensor
Place = tuple[Any, ...]
BUFFERS = 1e6  # the birth of the first axis of a buffer: groups are named after parameters
COPYING = {"clone", "_to_copy", "detach", "alias"}
MASKS = (torch.bool, torch.uint8)
SUMS = {"add", "sub", "mul", "div", "rsub"}
BLANK = {f"{new}{kind}{like}" for kind in ("zeros", "ones", "full") for new in ("new_", "") for like in ("_like", "")}


class Misfit(ValueError):
    """A call that the rule of its operation does not cover; the message says what of it."""


def place_of(tensor: Tensor) -> Place:
    """Where a tensor lies in memory, and as what: complex numbers may lie where pairs of real ones do."""
    return tensor.untyped_storage()._cdata, tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@dataclass(frozen=True)
class Known:
    axes: Axes
    depends: bool  # on the input
    learned: bool  # depends on parameters or the input
    step: "Step | None"  # that made it
    tensor: Tensor  # kept, so that its memory is not given to another
    strides: tuple[int, ...]
    made: str  # a digest of all that it was computed from, and how
    weighed: bool  # depends on tensors of the network
    copies: frozenset[int] = frozenset()  # dimensions along which all is alike, as it was expanded
    counted: bool = False  # whether its shape depends on numbers that depend on the input


@dataclass(frozen=True)
class Step:
    """One operation of the run."""

    operation: str
    ordinal: int  # of the operations of this name
    name: str  # of its result: its layer, else the operation
    axes: Axes  # of its first result
    shape: tuple[int, ...]
    depends: bool  # on the input
    numbers: bool  # whether it is of floating point
    sources: tuple["Step", ...]  # that made its operands
    sums: bool  # whether it joins several activations, number by number
    copies: frozenset[int]  # dimensions of its first result along which all is alike


@dataclass(frozen=True)
class Call:
    """One operation with its arguments by name, for a rule."""

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    known: Mapping[int, Known]  # by id of the tensor
    why: str

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return list(_tensors(self.arguments.values()))

    @property
    def first(self) -> Tensor:
        """The first tensor among the arguments."""
        return self.tensors[0]

    def raw(self, tensor: Tensor) -> Axes:
        """The axes of an operand, for an operation that only passes them on."""
        return self.known[id(tensor)].axes

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of an operand."""
        return tuple(axis.settle() for axis in self.raw(tensor))

    def tie(self, first: Axis, second: Axis) -> None:
        """Let two axes be permuted alike, as the operation joins them."""
        if first.size != second.size:
            raise Misfit("joins axes of different sizes")
        unify(first, second, f"{self.why} joins it with what has a fixed order")

    def depends(self, tensor: Tensor) -> bool:
        """Whether an operand depends on the network's input."""
        return self.known[id(tensor)].depends


Rule = Callable[[Call], list[Axes]]  # the axes of every result


class Recorder(Certain):
    """Follows axes through operations by `rules`, those of no rule freezing all that reaches them."""

    def __init__(
        self, network: nn.Module, rules: Mapping[str, Rule], pointwise: Rule, answers: Mapping[int, bool] | None = None
    ):
        super().__init__()
        self.network, self.rules, self.pointwise = network, rules, pointwise
        self.known: dict[Place, Known] = {}
        self.state: dict[str, Axes] = {}  # tensors of the network that were used, by name
        self.steps: list[Step] = []
        self.names: dict[Place, list[str]] = {}
        self.running = {place_of(b) for n, b in network.named_buffers() if n.rpartition(".")[2].startswith("running")}
        self.learned: set[str] = set()  # parameters, and statistics as of batch norm
        stored, tensors = _stored(network), (network.named_parameters, network.named_buffers)
        for name, tensor in (pair for named in tensors for pair in named(remove_duplicate=False)):
            if isinstance(tensor, nn.Parameter) or place_of(tensor) in self.running:
                self.learned.add(name)
            if name in self.learned or name in stored:
                self.names.setdefault(place_of(tensor), []).append(name)
        self.held: dict[Place, list[str]] = {}  # all tensors of the network by where they lie
        for name, tensor in [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]:
            self.held.setdefault(place_of(tensor), []).append(name)
        self.reached: set[str] = set()  # the tensors of the network that an operation used
        self.decided: list[str] = []  # where Python read a number that other inputs, or another draw, would change
        self.answers = dict(answers or {})  # what Python is to read in place of some of these, by their order
        self.answered: dict[int, bool] = {}  # which of them were a yes or no of the input alone, and what it was
        self.failed = False  # whether an operation raised an error
        self.refused = False  # whether the network itself raised one
        self.written: dict[int, str] = {}  # a digest of all that was written to a memory
        self.result: tuple[str, ...] = ()  # digests of what the network puts out and keeps
        self.draws: list[list[str]] = []  # the layers, outer to inner, that ran when something was drawn at random
        self.arguments = hashlib.sha256()  # of all operations, with their sizes and numbers
        self.busy = False  # inside an operation, where nothing is read by the network's own code
        self.births, self.inside = count(), [("", False)]
        self.blank: dict[int, list[tuple[Axes, Axes]]] = {}  # memory of one value everywhere: axes as read, and as made
        self.counts: dict[str, int] = {}
        self.repeats: dict[str, int] = {}

    def enter(self, tensor: Tensor, axes: Axes) -> None:
        """Make an input of the network known."""
        self.known[place_of(tensor)] = Known(axes, True, True, None, tensor, tensor.stride(), "input", False)

    def leave(self, outputs: Iterable[Tensor], kept: Mapping[str, Tensor]) -> None:
        """Freeze what the network puts out; what it keeps for the next run is permuted as what it kept before."""
        self.keep(kept)
        outputs = list(outputs)
        for tensor in outputs:
            for axis in self.look(tensor).axes:
                freeze(axis, "it is the network's output")
        used = [tensor for tensor in kept.values() if place_of(tensor) in self.known]
        self.result = tuple(_digest(self.told(tensor)) for tensor in (*outputs, *used))

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.busy = True
        try:
            return self.record(func, args, kwargs)
        finally:
            self.busy = False

    def record(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation, and what is known of it noted."""
        arguments = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        arguments |= dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        name = name_of(func)
        written = [t for a in func._schema.arguments if _is_written(a) for t in _tensors([arguments[a.name]])]
        for tensor in written:
            self.inscribe(tensor)
        known = {id(t): self.operand(t) for t in _tensors(arguments.values())}
        made = _digest(name, [self.told(a) for a in arguments.values()])
        self.written |= {_memory(tensor): made for tensor in written}
        try:
            out = super().run(func, args, kwargs)
        except Exception:
            self.failed = True
            raise
        outputs = tuple(_tensors([out]))
        call = Call(name, arguments, outputs, known, f"aten::{name}{self.place()}")
        rule = self.rules.get(name, self.pointwise if torch.Tag.pointwise in func.tags else None)
        found = self.apply(rule, call)
        depends, learned, weighed = (
            any(getattr(k, what) for k in known.values()) for what in ("depends", "learned", "weighed")
        )
        depends = depends or torch.Tag.nondeterministic_seeded in func.tags
        counted = any(k.counted for k in known.values()) or (depends and _counts(func, arguments))
        if torch.Tag.data_dependent_output in func.tags and depends:
            self.decide()
            if isinstance(out, bool) and not weighed:
                out = self.answers.get(len(self.decided) - 1, out)
                self.answered[len(self.decided) - 1] = out
        if is_drawn(func, args, kwargs):
            self.draws.append([layer for layer, _ in self.inside])
        self.counts[name] = self.counts.get(name, -1) + 1
        self.arguments.update(repr((name, [_plain(a) for a in arguments.values()])).encode())
        copies = _copies(call)
        step = self.note(name, call, found, depends, copies) if learned else None
        for i, (tensor, axes) in enumerate(zip(outputs, found, strict=True)):
            self.known[place_of(tensor)] = Known(
                axes,
                depends,
                learned,
                step,
                tensor,
                tensor.stride(),
                f"{made}:{i}",
                weighed,
                copies=copies,
                counted=counted,
            )
            if name in BLANK:
                self.blank[_memory(tensor)] = []
        return out

    def told(self, argument: Any) -> Any:
        """An argument of an operation, with tensors as what they were computed from."""
        if isinstance(argument, Tensor):
            written = self.written.get(_memory(argument))
            return self.look(argument).made, written, place_of(argument)[1:]
        return list(map(self.told, argument)) if isinstance(argument, list | tuple) else str(argument)

    def operand(self, tensor: Tensor) -> Known:
        """The same of what an operation reads: of a tensor that has one value everywhere, axes tied to no others."""
        known = self.look(tensor)
        if _memory(tensor) not in self.blank:
            return known
        axes = tuple(Axis(axis.size) for axis in known.axes)
        self.blank[_memory(tensor)].append((axes, known.axes))
        return replace(known, axes=axes)

    def inscribe(self, tensor: Tensor) -> None:
        """Let a tensor no longer have one value everywhere, since it is written to: its views have its axes."""
        for axes, made in self.blank.pop(_memory(tensor), []):
            for one, other in zip(axes, made, strict=True):
                unify(one, other, "it is written to")

    def decide(self) -> None:
        """Note that Python reads a number, here, that another input or another draw would change."""
        self.decided.append(self.place())

    def read(self, tensor: Tensor, *, shape: bool) -> None:
        """Note that Python reads the numbers of a tensor, or its `shape`, which may be the outcome of numbers."""
        known = self.known.get(place_of(tensor))
        if known is not None and known.depends and (known.counted or not shape):
            self.decide()

    def look(self, tensor: Tensor) -> Known:
        """What is known of an operand; of one that nothing made, that it is a constant or a tensor of the network."""
        place = place_of(tensor)
        if place not in self.known:
            self.reached |= set(self.held.get(place, ()))
            names = self.names.get(place, [])
            learned = any(name in self.learned for name in names)
            if names:
                late = 0.0 if learned else BUFFERS
                axes = tuple(Axis(n, _label(names[0]), late + next(self.births)) for n in tensor.shape)
                self.state |= dict.fromkeys(names, axes)
            else:
                axes = tuple(map(positions, tensor.shape))
            self.known[place] = Known(axes, False, learned, None, tensor, tensor.stride(), repr(names), bool(names))
        return self.known[place]

    def keep(self, after: Mapping[str, Tensor]) -> None:
        """Let what the network keeps `after` the run, for the next, be permuted as what it kept before."""
        for name in after.keys() & {name for names in self.names.values() for name in names}:
            tensor = after[name]
            if name not in self.names.get(place_of(tensor), []) and place_of(tensor) in self.known:
                axes = self.known[place_of(tensor)].axes
                if [a.size for a in self.state.setdefault(name, axes)] != list(tensor.shape):
                    for axis in (*axes, *self.state[name]):
                        freeze(axis, f"{name} keeps it for the next run in another shape")
                else:
                    for before, now in zip(self.state[name], axes, strict=True):
                        unify(before, now, f"{name} keeps it for the next run")

    def apply(self, rule: Rule | None, call: Call) -> list[Axes]:
        """The axes of the results; where no rule fits, all operands are frozen."""
        why = f"{call.why} has no rule"
        if rule:
            try:
                found = rule(call)
                sizes = [tuple(axis.size for axis in axes) for axes in found]
                if sizes == [tuple(t.shape) for t in call.outputs]:
                    return found
                why = f"{call.why} turns shapes into others than its rule says"
            except Misfit as misfit:
                why = f"{call.why} {misfit}"
        for tensor in call.tensors:
            for axis in call.axes(tensor):
                freeze(axis, why)
        return [tuple(map(positions, t.shape)) for t in call.outputs]

    def note(self, name: str, call: Call, found: list[Axes], depends: bool, copies: frozenset[int]) -> Step | None:
        """Remember the operation as a step."""
        if not call.outputs:
            return None
        layer, leaf = self.inside[-1]
        base = layer.replace(".", "_") + ("" if depends else f"_{name}") if leaf else name
        again = self.repeats[base] = self.repeats.get(base, -1) + 1
        sources = [known.step for t in call.tensors if (known := call.known[id(t)]).learned]
        joined = name in SUMS and sum(map(call.depends, call.tensors)) > 1
        self.steps.append(
            Step(
                name,
                self.counts[name],
                f"{base}_{again}" if again else base,
                found[0],
                tuple(call.outputs[0].shape),
                depends,
                call.outputs[0].is_floating_point(),
                tuple(s for s in sources if s is not None),
                joined,
                copies,
            )
        )
        return self.steps[-1]

    def place(self) -> str:
        """In words, the layer that is running."""
        return f" in layer {self.inside[-1][0]!r}" if self.inside[-1][0] else ""

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Know which layer is running."""
        handles = []
        for name, module in self.network.named_modules():
            leaf = bool(name) and not any(module.children())
            enter = lambda *_, here=(name, leaf): self.inside.append(here)  # noqa: E731
            leave = lambda *_: self.inside.pop() and None  # noqa: E731
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _stored(network: nn.Module) -> set[str]:
    """The buffers that a checkpoint of the network has: the others would be made anew, in their old order."""
    return {
        f"{name}.{buffer}" if name else buffer
        for name, module in network.named_modules(remove_duplicate=False)
        for buffer in module._buffers.keys() - module._non_persistent_buffers_set
    }


def _copies(call: Call) -> frozenset[int]:
    """The dimensions of a result along which all is alike: those expanded, and those of an operand it copies."""
    if call.name == "expand":
        (out,) = call.outputs
        return frozenset(d for d, (n, s) in enumerate(zip(out.shape, out.stride(), strict=True)) if n > 1 and s == 0)
    if len(call.tensors) == 1 and [t.shape for t in call.outputs] == [call.first.shape] and call.name in COPYING:
        return call.known[id(call.first)].copies
    return frozenset()


def _digest(*told: Any) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _counts(func: Operation, arguments: Mapping[str, Any]) -> bool:
    """Whether the shape of an operation's result depends on the numbers of its operands."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    indices = arguments.get("indices")
    return not isinstance(indices, list | tuple) or any(i.dtype in MASKS for i in indices if i is not None)


def _plain(value: Any) -> Any:
    """An argument without the numbers of tensors."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else str(value)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _label(parameter: str) -> str:
    """The layer of a parameter; of one that is no layer's, its own name."""
    layer, _, last = parameter.rpartition(".")
    return layer if layer and last in ("weight", "bias", "running_mean", "running_var") else parameter
