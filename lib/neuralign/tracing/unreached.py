"""What no recorded run of a network used, and which groups may belong to it all the same.

A head for another task, an early exit, an adapter that is switched off: what feeds such a layer cannot be seen. It
would keep its old order while what feeds it moves, and nothing that runs would show it. That it is never used, by
anyone, cannot be seen either; so it is neither refused nor trusted. A group stays free where its layers do not fit: an
axis of a layer that was not reached has, as far as the run can tell,

- the length of an activation's axis that was seen, or of several neighbouring ones, flattened: what lies on those is
  frozen;
- else a length that nothing had: each group whose size divides it is frozen, for the layer may see its maps flattened,
  at a size of its own.

That is no proof, as concatenations of other layers may have any length. Therefore the tensors are named wherever the
symmetry or a certificate is told of.
"""

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from neuralign.tracing.axes import POSITIONS, Axis, freeze, leaves
from neuralign.tracing.recording import Axes, Recorder, Step

REASON = "it may belong to {}, which no run reached"


def unreached(network: nn.Module, recorders: Iterable[Recorder]) -> tuple[str, ...]:
    """The parameters, and the numbers of floating point kept in a checkpoint beside them, that no run used."""
    reached = {name for recorder in recorders for name in recorder.reached}
    kept = {name for name in network.state_dict(keep_vars=True)}
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
    seen = set()
    for recorder in recorders:
        for step in recorder.steps:
            for size, axes in _lengths(step):
                if size in wanted:
                    for leaf in (leaf for axis in axes for leaf in leaves(axis) if leaf.reason != POSITIONS):
                        seen.add(size)
                        freeze(leaf, REASON.format(wanted[size]))
    groups = [leaf for axes in state.values() for axis in axes for leaf in leaves(axis)]
    for size, name in wanted.items():
        for leaf in groups if size not in seen else ():
            if leaf.size > 1 and size % leaf.size == 0:
                freeze(leaf, REASON.format(name))


def _lengths(step: Step) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """The lengths of an activation's axes and of its neighbouring axes flattened, but for the first with others."""
    if not step.depends:
        return
    for first in range(len(step.axes)):
        length = 1
        for last in range(first, len(step.axes) if first else 1):
            length *= step.axes[last].size
            yield length, step.axes[first : last + 1]
