"""Names for the axes that a run found, and the spec they make."""

from collections.abc import Collection, Mapping
from itertools import count
from re import split

from neuralign.symmetry.permutations import Axis as Blocks
from neuralign.symmetry.permutations import Block, Spec
from neuralign.symmetry.tracing.axes import POSITIONS, Axis, factors, leaves, pieces
from neuralign.symmetry.tracing.operations.products import ATTENTION, UNIT

ON_REQUEST = "heads and channels of an attention are permuted on request only"
UNSEEN = "no activation of the network carries it"


class Layout:
    """The groups of a network, named after the first layer that has them, and where they lie on its tensors.

    Those of `learned` tensors: what lies on no other than buffers, which may be constants, stays in place.
    """

    def __init__(self, state: Mapping[str, tuple[Axis, ...]], learned: Collection[str], attention: bool):
        self.state, self.learned = state, learned
        found = {id(f): f for name, axes in state.items() if name in learned for axis in axes for f in leaves(axis)}
        named = [a for a in found.values() if a.reason != POSITIONS and (a.size > 1 or UNIT in a.marks)]
        self.groups = _name(sorted(named, key=lambda leaf: leaf.born))
        self.sizes = {name: leaf.size for name, leaf in self.groups.items()}
        self.names = {id(leaf): name for name, leaf in self.groups.items()}
        for leaf in named:
            if ATTENTION in leaf.marks and not attention and leaf.reason is None:
                leaf.reason = ON_REQUEST

    def keep(self, groups: Collection[str]) -> None:
        """Freeze all groups but these."""
        for name, leaf in self.groups.items():
            if leaf.reason is None and name not in groups:
                leaf.reason = UNSEEN

    def spec(self) -> Spec:
        """What lies where, and what is fixed."""
        axes = {
            name: tuple(tuple(self.blocks(a)) for a in dims)
            for name, dims in self.state.items()
            if name in self.learned or any(map(self.moves, dims))
        }
        fixed = frozenset(name for name, leaf in self.groups.items() if leaf.reason is not None)
        return Spec({name: dims for name, dims in axes.items() if any(dims)}, self.sizes, fixed)

    def frozen(self) -> dict[str, str]:
        """Why, for every axis of a tensor that may not be permuted as a whole; but for those whose order is data."""
        return {
            f"{name}[{dim}]": reason
            for name, axes in self.state.items()
            if name in self.learned
            for dim, axis in enumerate(axes)
            if (reason := next((leaf.reason for leaf in leaves(axis) if leaf.reason and leaf.size > 1), None))
        }

    def blocks(self, axis: Axis) -> list[Block]:
        """The axis as blocks laid end to end; none where no group lies on it."""
        found = [self._written(factors(piece)) for piece in pieces(axis)]
        return found if any(not isinstance(f, int) for block in found for f in block) else []

    def moves(self, axis: Axis) -> bool:
        """Whether the order of an axis of an activation is no data, for free groups may lie on it."""
        if (stack := axis.stack()) is not None:  # not to be settled by being looked at
            return any(map(self.moves, stack.parts))
        return any(leaf.reason is None and id(leaf) in self.names for leaf in leaves(axis))

    def _written(self, parts: list[Axis]) -> Block:
        """Names of groups, numbers of positions and axes of several blocks, outer to inner, with a number last."""
        out: list[str | int | Blocks] = []
        for part in map(Axis.settle, parts):
            if name := self.names.get(id(part)):
                out.append(name)
            elif part.kind and (inner := self.blocks(part)):
                out.append(tuple(inner))
            elif out and isinstance(last := out[-1], int):
                out[-1] = last * part.size
            else:
                out.append(part.size)
        return tuple(out) if isinstance(out[-1], int) else (*out, 1)


def _name(groups: list[Axis]) -> dict[str, Axis]:
    """The layer's name, with the part of its axis where the layer has several groups, or one besides what is frozen."""
    layers = [split(r"[:\[]", leaf.label)[0] for leaf in groups]
    free = [layer for layer, leaf in zip(layers, groups, strict=True) if leaf.reason is None]
    out: dict[str, Axis] = {}
    for layer, leaf in zip(layers, groups, strict=True):
        alone = (free if layer in free else layers).count(layer) == 1 and (leaf.reason is None or layer not in free)
        name = layer if alone else leaf.label
        tries = (f"{name}#{i}" for i in count(2))
        while name in out:
            name = next(tries)
        out[name] = leaf
    return out
