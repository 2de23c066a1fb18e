"""Freezes the groups that may lie on tensors of a network which no recorded run used.

Examples of such tensors are a head for another task, an early exit, an adapter that is switched off. No run shows which
activation feeds the layer. If the groups of that activation were permuted without the layer, the layer would compute
something else whenever it is used, and no certificate would show it. So groups are frozen by the lengths of axes. An
axis of an unreached tensor may belong to

- an axis of an activation of the same length, or neighbouring ones flattened to it: the groups on these are frozen;
- if there is none, two or three activations concatenated, or feature maps flattened at a size that no run saw: the
  groups on activations whose lengths add up to that of the axis, and each group whose size divides it, are frozen.

This is a heuristic, since a network may do anything to an activation before the layer. So reports and certificates name
the unreached tensors.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from torch import nn

from neuralign.symmetry.tracing.axes import ORDER_IS_DATA, Axis, leaves
from neuralign.symmetry.tracing.call import Axes, Step
from neuralign.symmetry.tracing.recording import Recorder

REASON = "it may belong to {}, which no run reached"

Carriers = Mapping[int, Collection[Axis]]  # length of an activation's axis -> the groups on axes of that length


def unreached_tensors(network: nn.Module, recorders: Iterable[Recorder]) -> tuple[str, ...]:
    """Names of the parameters and persistent buffers, floating point or complex, that no run used."""
    reached = {name for recorder in recorders for name in recorder.reached}
    stored = network.state_dict(keep_vars=True).keys()
    tensors = [*network.named_parameters(), *((n, b) for n, b in network.named_buffers() if n in stored)]
    return tuple(n for n, t in tensors if n not in reached and t.numel() and (t.is_floating_point() or t.is_complex()))


def freeze_possible_inputs(
    names: Iterable[str], network: nn.Module, state: Mapping[str, Axes], recorders: Iterable[Recorder]
) -> None:
    """Freeze the groups that may lie on the tensors `names` of `network`, which no run used.

    `state`: the axes of the tensors that were used, by name. `recorders`: of all runs.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    lengths: dict[int, str] = {}  # length of an axis -> the first of these tensors that has it
    for name in names:
        for size in tensors[name].shape:
            if size > 1:
                lengths.setdefault(size, name)
    if not lengths:
        return
    carriers = _carriers(step for recorder in recorders for step in recorder.steps)
    groups = [leaf for axes in state.values() for axis in axes for leaf in leaves(axis) if leaf.size > 1]
    for length, name in lengths.items():
        combined = _on_concatenations(length, carriers)
        for leaf in carriers.get(length) or [*combined, *(group for group in groups if length % group.size == 0)]:
            if leaf.reason is None:
                leaf.reason = REASON.format(name)


def _carriers(steps: Iterable[Step]) -> Carriers:
    """The groups that lie on axes of activations, by the length of the axis."""
    groups: dict[int, dict[int, Axis]] = {}
    for step in steps:
        for length, axes in _flattened_axes(step):
            for leaf in (leaf for axis in axes for leaf in leaves(axis)):
                if leaf.reason != ORDER_IS_DATA and leaf.size > 1:
                    groups.setdefault(length, {})[id(leaf)] = leaf
    return {length: list(by_id.values()) for length, by_id in groups.items()}


def _flattened_axes(step: Step) -> Iterator[tuple[int, Sequence[Axis]]]:
    """(length, axes) of all sequences of neighbouring axes of an activation; the batch axis, the first, only alone."""
    for first in range(len(step.axes) if step.depends_on_input else 0):
        length = 1
        for last in range(first, len(step.axes) if first else 1):
            length *= step.axes[last].size
            yield length, step.axes[first : last + 1]


def _on_concatenations(length: int, carriers: Carriers) -> Iterator[Axis]:
    """The groups on two or three axes of activations whose lengths add up to `length`."""
    for first in carriers:
        for second in (0, *carriers):
            rest = length - first - second
            if rest in carriers:
                yield from (leaf for part in {first, second, rest} - {0} for leaf in carriers[part])
