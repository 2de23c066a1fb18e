"""Names the groups of a network, and makes the `PermutationSpec` of where they lie."""

from collections.abc import Collection, Mapping
from itertools import count
from re import split

from neuralign.symmetry.permutations import Block, Blocks, PermutationSpec
from neuralign.symmetry.tracing.axes import ORDER_IS_DATA, Axis, factors, leaves, pieces
from neuralign.symmetry.tracing.call import Axes
from neuralign.symmetry.tracing.operations.products import ATTENTION, UNIT

ON_REQUEST = "heads and channels of an attention are permuted on request only"
UNSEEN = "no activation of the network carries it"


class Groups:
    """The groups of a network: the leaves on axes of `learned` tensors, named after the first layer that has them.

    A leaf that lies on other buffers only is no group and stays in place: such buffers may be constants.

    Args:
        state: axes of the network's tensors, by name.
        learned: names of those that are parameters or running statistics.
        attention: whether heads of attentions, and channels within heads, may be permuted.
    """

    def __init__(self, state: Mapping[str, Axes], learned: Collection[str], attention: bool):
        self.state, self.learned = state, learned
        all_leaves = {id(f): f for n, axes in state.items() if n in learned for axis in axes for f in leaves(axis)}
        named = [a for a in all_leaves.values() if a.reason != ORDER_IS_DATA and (a.size > 1 or UNIT in a.marks)]
        self.leaves = _name(sorted(named, key=lambda leaf: leaf.first_seen))
        self.sizes = {name: leaf.size for name, leaf in self.leaves.items()}
        self.names = {id(leaf): name for name, leaf in self.leaves.items()}
        for leaf in named:
            if ATTENTION in leaf.marks and not attention and leaf.reason is None:
                leaf.reason = ON_REQUEST

    def freeze_all_but(self, groups: Collection[str]) -> None:
        """Freeze every group that is not one of these, which can be read from activations."""
        for name, leaf in self.leaves.items():
            if leaf.reason is None and name not in groups:
                leaf.reason = UNSEEN

    def spec(self) -> PermutationSpec:
        """The `PermutationSpec` of the network's tensors; axes without groups have no blocks."""
        axes = {
            name: tuple(tuple(self.blocks(a)) for a in dims)
            for name, dims in self.state.items()
            if name in self.learned or any(map(self.has_free_group, dims))
        }
        fixed = frozenset(name for name, leaf in self.leaves.items() if leaf.reason is not None)
        return PermutationSpec({name: dims for name, dims in axes.items() if any(dims)}, self.sizes, fixed)

    def frozen(self) -> dict[str, str]:
        """{"tensor[dimension]": why not all of it may be permuted}; dimensions whose order is data are absent."""
        return {
            f"{name}[{dim}]": reason
            for name, axes in self.state.items()
            if name in self.learned
            for dim, axis in enumerate(axes)
            if (reason := next((leaf.reason for leaf in leaves(axis) if leaf.reason and leaf.size > 1), None))
        }

    def blocks(self, axis: Axis) -> list[Block]:
        """The blocks that lie end to end on an axis; [] for an axis without groups."""
        blocks = [self._block(factors(piece)) for piece in pieces(axis)]
        return blocks if any(not isinstance(f, int) for block in blocks for f in block) else []

    def has_free_group(self, axis: Axis) -> bool:
        """Whether a free group lies on an axis. Members of a stack stay separate."""
        if (stack := axis.as_stack()) is not None:
            return any(map(self.has_free_group, stack.parts))
        return any(leaf.reason is None and id(leaf) in self.names for leaf in leaves(axis))

    def _block(self, axes: list[Axis]) -> Block:
        """The block that is the product of these axes; the factors of no group become numbers of positions."""
        block: list[str | int | Blocks] = []
        for axis in map(Axis.resolve, axes):
            if name := self.names.get(id(axis)):
                block.append(name)
            elif axis.kind and (inner := self.blocks(axis)):
                block.append(tuple(inner))
            elif block and isinstance(last := block[-1], int):
                block[-1] = last * axis.size
            else:
                block.append(axis.size)
        return tuple(block) if isinstance(block[-1], int) else (*block, 1)


def _name(groups: list[Axis]) -> dict[str, Axis]:
    """{name: group}. The only free group of a layer, or its only group, has the layer's name, any other its own label.

    Names that would be equal are numbered: "conv1", "conv1#2", ...
    """
    layers = [split(r"[:\[]", leaf.label)[0] for leaf in groups]
    free = [layer for layer, leaf in zip(layers, groups, strict=True) if leaf.reason is None]
    names: dict[str, Axis] = {}
    for layer, leaf in zip(layers, groups, strict=True):
        is_only = (free if layer in free else layers).count(layer) == 1 and (leaf.reason is None or layer not in free)
        name = layer if is_only else leaf.label
        numbered = (f"{name}#{i}" for i in count(2))
        while name in names:
            name = next(numbered)
        names[name] = leaf
    return names
