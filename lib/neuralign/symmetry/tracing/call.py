"""An operation of a recorded run, as rules see it (`Call`) and as the trace keeps it (`Step`), and its tensors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuralign.symmetry.tracing.axes import Axis, freeze, unify

Axes = tuple[Axis, ...]  # one for every dimension of a tensor

# What an operation does to the axis that it freezes: the ending of a reason, which begins with the operation.
FIXED_ORDER = "joins it with an axis of fixed order"
ORDER = "depends on its order"
INDEXED = "indexes it by position"
SPACE = "treats it as a spatial dimension"
PART = "takes a part of it"


class UnsupportedCall(ValueError):
    """The rule of an operation does not cover a call; the message is the ending of a reason, as ORDER is."""


@dataclass(frozen=True)
class Step:
    """An operation on tensors that may carry groups, so that activations may be read from its first result."""

    operation: str
    ordinal: int  # among the operations of this name, from 0
    name: str  # unique in the run: of the layer whose result this is, else of the operation
    axes: Axes  # of the first result
    shape: tuple[int, ...]
    depends_on_input: bool
    is_floating_point: bool
    sources: tuple["Step", ...]  # the steps that computed its operands
    is_sum: bool  # whether it adds, subtracts, multiplies or divides several activations elementwise
    expanded: frozenset[int]  # dimensions of the first result that hold copies


@dataclass(frozen=True)
class TensorRecord:
    """What is known of one tensor of a run."""

    axes: Axes
    tensor: Tensor  # kept alive, so that its memory is not reused
    strides: tuple[int, ...]  # those that it had when it was computed
    digest: str  # of the operations and tensors that it was computed from; equal for equal computations
    depends_on_input: bool
    depends_on_network: bool  # on any parameter or buffer
    may_carry_groups: bool  # whether it depends on a parameter, on running statistics or on the input
    step: Step | None = None  # the step that computed it
    expanded: frozenset[int] = frozenset()  # dimensions that hold copies, as `expand` made them
    dynamic_shape: bool = False  # whether its shape depends on values that depend on the input


@dataclass(frozen=True)
class Call:
    """One operation with its arguments by name, and the records of its operands."""

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    records: Mapping[int, TensorRecord]  # by id of the operand
    label: str  # "aten::add in layer 'fc'"

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return list(tensors_in(self.arguments.values()))

    @property
    def first(self) -> Tensor:
        """The first tensor among the arguments."""
        return self.tensors[0]

    def stacked_axes(self, tensor: Tensor) -> Axes:
        """The axes of an operand, members of stacks still separate, for operations that only pass axes on."""
        return self.records[id(tensor)].axes

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of an operand; the members of each stack are unified to one axis."""
        return tuple(axis.resolve() for axis in self.stacked_axes(tensor))

    def reason(self, what: str) -> str:
        """The reason to freeze an axis: this operation, and `what` it does to the axis."""
        return f"{self.label} {what}"

    def freeze(self, axis: Axis, what: str) -> None:
        """Forbid any permutation of an axis, because of `what` the operation does to it."""
        freeze(axis, self.reason(what))

    def unify(self, first: Axis, second: Axis) -> None:
        """Require that two axes are permuted alike, as the operation matches their positions.

        Raises UnsupportedCall if they have different sizes.
        """
        if first.size != second.size:
            raise UnsupportedCall("joins axes of different sizes")
        unify(first, second, self.reason(FIXED_ORDER))

    def unify_broadcast(self, axes: Sequence[Axis], operand: Sequence[Axis]) -> None:
        """Unify axes with those of an operand that is broadcast to them, aligned at the last; size 1 is passed over."""
        for axis, broadcast in zip(reversed(axes), reversed(operand), strict=False):
            if broadcast.size != 1:
                self.unify(axis, broadcast)

    def depends_on_input(self, tensor: Tensor) -> bool:
        """Whether an operand depends on the network's input."""
        return self.records[id(tensor)].depends_on_input


Rule = Callable[[Call], list[Axes]]  # the axes of every result


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among these values, also within lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
