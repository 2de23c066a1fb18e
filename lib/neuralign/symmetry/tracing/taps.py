"""Where in a run the activations of each group can be read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from neuralign.symmetry.permutations import Block, extent
from neuralign.symmetry.tracing.execution import Read
from neuralign.symmetry.tracing.groups import Layout
from neuralign.symmetry.tracing.recording import Step

ACTIVATIONS = set("relu hardtanh leaky_relu elu celu selu gelu silu hardswish hardsigmoid tanh sigmoid mish".split())
ACTIVATIONS |= set("softplus _prelu_kernel rrelu_with_noise threshold".split())
POOLS = {f"max_pool{dims}d_with_indices" for dims in (1, 2, 3)}


@dataclass(frozen=True)
class Tap:
    """Where a group's activations can be read: channels `start` .. `start + size` of what a probe gives for `node`."""

    node: str
    start: int
    summed: bool = False  # whether it follows a sum, as on a residual stream


Taps = dict[str, tuple[Tap, ...]]  # free group -> the activations that carry it, in graph order


@dataclass
class Finder:
    """What was found: taps, and where and how deep in the network their activations lie."""

    layout: Layout
    reads: dict[str, Read] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)

    def choose(self, steps: Sequence[Step], active: Sequence[Step]) -> Taps:
        """For each group, the active steps that carry it; where there is none, the last of the widest that does."""
        found: dict[str, list[_Place]] = {n: [] for n, leaf in self.layout.groups.items() if leaf.reason is None}
        for depth, step in enumerate(steps):
            if step.numbers:
                for place in _places(self.layout, step, depth):
                    if place.group in found:
                        found[place.group].append(place)
        wanted = {id(step) for step in active}
        best = {group: _best(places, wanted) for group, places in found.items()}
        return {group: tuple(map(self.tap, places)) for group, places in best.items() if places}

    def tap(self, place: "_Place") -> Tap:
        """A tap there, with its read noted under a name of its own."""
        name = place.name
        while self.reads.setdefault(name, place.read) != place.read:
            name += "'"
        self.order[name] = place.depth
        return Tap(name, place.start, _follows_a_sum(place.step))


@dataclass(frozen=True)
class _Place:
    group: str
    step: Step
    depth: int
    name: str
    read: Read
    start: int
    alone: bool  # whether each of its units is one channel

    def width(self) -> int:
        """How many numbers of each unit there are."""
        return prod(n for dim, n in enumerate(self.step.shape) if dim not in (self.read.dim, *self.read.pooled))


def pooled(steps: Sequence[Step], active: Sequence[Step]) -> list[Step]:
    """The active steps, but in place of one that only a maximum over windows reads that maximum."""
    readers: dict[int, list[Step]] = {}
    for step in steps:
        for source in step.sources:
            readers.setdefault(id(source), []).append(step)
    alone = {id(step): readers[id(step)][0] for step in active if len(readers.get(id(step), [])) == 1}
    return [alone[id(s)] if id(s) in alone and alone[id(s)].operation in POOLS else s for s in active]


def _follows_a_sum(step: Step) -> bool:
    if step.operation in POOLS:
        return any(map(_follows_a_sum, step.sources))
    return step.sums or any(source.sums for source in step.sources)


def _best(places: list[_Place], wanted: set[int]) -> list[_Place]:
    for alone in (True, False):
        if chosen := [p for p in places if id(p.step) in wanted and p.alone == alone]:
            return chosen
    some = [p for p in places if p.step.depends]
    some = [p for p in some if p.alone] or some
    widest = max((p.width() for p in some), default=0)
    return [p for p in some if p.width() == widest][-1:]


def _places(layout: Layout, step: Step, depth: int) -> Iterator[_Place]:
    moving = [dim for dim, axis in enumerate(step.axes) if layout.moves(axis)]
    for dim, axis in enumerate(step.axes):
        if axis.stack() is not None or dim in step.copies:
            continue
        pooled = tuple(d for d in moving if d != dim)  # as heads, where channels within heads are read
        start, plain = 0, Read(step.operation, step.ordinal, dim, pooled=pooled)
        name = step.name if dim == 1 or dim == len(step.axes) - 1 else f"{step.name}:{dim}"
        for block in layout.blocks(axis):
            sizes = tuple(extent(layout.sizes, factor) for factor in block)
            for i, group in enumerate(block):
                if isinstance(group, str) and block[i:] == (group, 1) and i == 0:
                    yield _Place(group, step, depth, name, plain, start, True)
                elif isinstance(group, str):
                    read = _factored(plain, block, sizes, i, start)
                    yield _Place(group, step, depth, f"{step.name}:{group}", read, 0, False)
            start += prod(sizes)


def _factored(plain: Read, block: Block, sizes: tuple[int, ...], units: int, start: int) -> Read:
    """Reads one factor of a block, averaged over the others of it that groups lie on."""
    others = tuple(i for i, f in enumerate(block) if not isinstance(f, int) and i != units)
    return replace(plain, factors=sizes, start=start, units=units, averaged=others)
