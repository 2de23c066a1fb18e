"""What no recorded run of a network used, and which groups may belong to it all the same.

A head for another task, an early exit, an adapter that is switched off: what feeds such a layer cannot be seen. It
would keep its old order while what feeds it moves, and nothing that runs would show it. That it is never used, by
anyone, cannot be seen either; so it is neither refused nor trusted. A group stays free where its layers do not fit. An
axis of a layer that was not reached has, as far as the runs can tell,

- the length of an activation's axis that was seen, or of several neighbouring ones, flattened: what lies on those is
  frozen;
- else a length that nothing had: then two or three activations may be concatenated to it, or the layer may see maps
  flattened at a size of its own. What lies on such activations, and each group whose size divides it, is frozen.

That is no proof, for a network may do anything else to an activation first. Therefore the tensors are named wherever
the symmetry or a certificate is told of.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from torch import nn

from neuralign.symmetry.tracing.axes import POSITIONS, Axis, leaves
from neuralign.symmetry.tracing.recording import Axes, Recorder, Step

REASON = "it may belong to {}, which no run reached"

Carriers = Mapping[int, Collection[Axis]]  # length of an axis -> the groups that were seen on one


def unreached(network: nn.Module, recorders: Iterable[Recorder]) -> tuple[str, ...]:
    """The parameters, and the numbers of floating point kept in a checkpoint beside them, that no run used."""
    reached = {name for recorder in recorders for name in recorder.reached}
    kept = network.state_dict(keep_vars=True).keys()
    tensors = [*network.named_parameters(), *((n, b) for n, b in network.named_buffers() if n in kept)]
    return tuple(n for n, t in tensors if n not in reached and t.numel() and (t.is_floating_point() or t.is_complex()))


def freeze_what_may_feed(
    names: Iterable[str], network: nn.Module, state: Mapping[str, Axes], recorders: Iterable[Recorder]
) -> None:
    """Freeze the groups that may lie on the axes of the tensors of these names."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    wanted: dict[int, str] = {}
    for name in names:
        for size in tensors[name].shape:
            if size > 1:
                wanted.setdefault(size, name)
    if not wanted:
        return
    carriers = _carriers(step for recorder in recorders for step in recorder.steps)
    groups = [leaf for axes in state.values() for axis in axes for leaf in leaves(axis) if leaf.size > 1]
    for size, name in wanted.items():
        for leaf in carriers.get(size) or [*_concatenated(size, carriers), *(g for g in groups if size % g.size == 0)]:
            if leaf.reason is None:
                leaf.reason = REASON.format(name)


def _carriers(steps: Iterable[Step]) -> Carriers:
    found: dict[int, dict[int, Axis]] = {}
    for step in steps:
        for length, axes in _lengths(step):
            for leaf in (leaf for axis in axes for leaf in leaves(axis) if leaf.reason != POSITIONS and leaf.size > 1):
                found.setdefault(length, {})[id(leaf)] = leaf
    return {length: list(groups.values()) for length, groups in found.items()}


def _lengths(step: Step) -> Iterator[tuple[int, Sequence[Axis]]]:
    """The lengths of an activation's axes and of its neighbouring axes flattened, but for the first with others."""
    for first in range(len(step.axes) if step.depends else 0):
        length = 1
        for last in range(first, len(step.axes) if first else 1):
            length *= step.axes[last].size
            yield length, step.axes[first : last + 1]


def _concatenated(size: int, carriers: Carriers) -> Iterator[Axis]:
    """The groups on axes that have this length together, by twos and threes."""
    for one in carriers:
        for two in (0, *carriers):
            rest = size - one - two
            if rest in carriers:
                yield from (leaf for length in {one, two, rest} - {0} for leaf in carriers[length])
