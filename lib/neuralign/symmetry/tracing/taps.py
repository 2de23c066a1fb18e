"""Taps: the results of a recorded run in which the activations of each group can be read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from neuralign.symmetry.permutations import Block, extent
from neuralign.symmetry.tracing.call import Step
from neuralign.symmetry.tracing.execution import ReadPoint
from neuralign.symmetry.tracing.groups import Groups

ACTIVATIONS = set("relu hardtanh leaky_relu elu celu selu gelu silu hardswish hardsigmoid tanh sigmoid mish".split())
ACTIVATIONS |= set("softplus _prelu_kernel rrelu_with_noise threshold".split())
POOLS = {f"max_pool{dims}d_with_indices" for dims in (1, 2, 3)}


@dataclass(frozen=True)
class Tap:
    """A group's activations: of the probe's result `node`, the channels from `start` to `start` + size of the group."""

    node: str
    start: int
    summed: bool = False  # whether they follow a sum of activations, as on a residual stream


Taps = dict[str, tuple[Tap, ...]]  # free group -> the activations that carry it, in the order of the run


@dataclass
class TapFinder:
    """Chooses taps for groups, and keeps for each its `ReadPoint` and the number of its step, from 0."""

    groups: Groups
    reads: dict[str, ReadPoint] = field(default_factory=dict)  # node -> where it is read
    depths: dict[str, int] = field(default_factory=dict)  # node -> number of its step

    def choose(self, steps: Sequence[Step], preferred: Sequence[Step]) -> Taps:
        """{free group: its taps} in all `preferred` steps that carry it.

        A group that these do not carry has one tap, in the step with the most numbers for each unit. Groups that no
        step carries are absent.
        """
        free = [name for name, leaf in self.groups.leaves.items() if leaf.reason is None]
        candidates: dict[str, list[_Candidate]] = {name: [] for name in free}
        for depth, step in enumerate(steps):
            if step.is_floating_point:
                for candidate in _candidates(self.groups, step, depth):
                    if candidate.group in candidates:
                        candidates[candidate.group].append(candidate)
        ids = {id(step) for step in preferred}
        best = {group: _best(group_candidates, ids) for group, group_candidates in candidates.items()}
        return {group: tuple(map(self._tap, chosen)) for group, chosen in best.items() if chosen}

    def _tap(self, candidate: "_Candidate") -> Tap:
        """The tap of a candidate; its read point is kept under a unique name."""
        node = candidate.node
        while self.reads.setdefault(node, candidate.read) != candidate.read:
            node += "'"
        self.depths[node] = candidate.depth
        return Tap(node, candidate.start, _follows_sum(candidate.step))


@dataclass(frozen=True)
class _Candidate:
    """A step whose result carries a group."""

    group: str
    step: Step
    depth: int
    node: str
    read: ReadPoint
    start: int
    is_block: bool  # whether the group is a block of the dimension, so that a unit is one channel of it

    def numbers_per_unit(self) -> int:
        """How many numbers of each unit the activation has."""
        return prod(n for dim, n in enumerate(self.step.shape) if dim not in (self.read.dim, *self.read.averaged_dims))


def steps_of_all_branches(steps: Sequence[Step], branches: Iterable[Sequence[Step]]) -> list[Step]:
    """The steps of a run that can be read in all its branches: a `ReadPoint` leads to the same layer's result there."""
    by_call = [{(step.operation, step.ordinal): (step.name, step.shape) for step in branch} for branch in branches]
    return [s for s in steps if all(branch.get((s.operation, s.ordinal)) == (s.name, s.shape) for branch in by_call)]


def with_pooling(steps: Sequence[Step], nonlinear: Sequence[Step]) -> list[Step]:
    """The steps `nonlinear`, each replaced by the max-pooling that reads it if nothing else does."""
    readers: dict[int, list[Step]] = {}
    for step in steps:
        for source in step.sources:
            readers.setdefault(id(source), []).append(step)
    only_reader = {id(step): readers[id(step)][0] for step in nonlinear if len(readers.get(id(step), [])) == 1}
    return [reader if (reader := only_reader.get(id(s), s)).operation in POOLS else s for s in nonlinear]


def _follows_sum(step: Step) -> bool:
    """Whether a step is a sum of activations or reads one, directly or through max-pooling."""
    if step.operation in POOLS:
        return any(map(_follows_sum, step.sources))
    return step.is_sum or any(source.is_sum for source in step.sources)


def _best(candidates: list[_Candidate], preferred: set[int]) -> list[_Candidate]:
    """The candidates at preferred steps: those where the group is a whole block, or, if there are none, the others.

    If no preferred step carries the group, the last candidate with the most numbers per unit.
    """
    for is_block in (True, False):
        if chosen := [c for c in candidates if id(c.step) in preferred and c.is_block == is_block]:
            return chosen
    rest = [c for c in candidates if c.step.depends_on_input]
    rest = [c for c in rest if c.is_block] or rest
    most = max((c.numbers_per_unit() for c in rest), default=0)
    return [c for c in rest if c.numbers_per_unit() == most][-1:]


def _candidates(groups: Groups, step: Step, depth: int) -> Iterator[_Candidate]:
    """A candidate for each group on each dimension of a step's result, but for dimensions that hold copies."""
    permutable = [dim for dim, axis in enumerate(step.axes) if groups.has_free_group(axis)]
    for dim, axis in enumerate(step.axes):
        if axis.as_stack() is not None or dim in step.expanded:
            continue
        others = tuple(d for d in permutable if d != dim)  # averaged over, as heads where channels of heads are read
        start, unfactored = 0, ReadPoint(step.operation, step.ordinal, dim, averaged_dims=others)
        node = step.name if dim == 1 or dim == len(step.axes) - 1 else f"{step.name}:{dim}"
        for block in groups.blocks(axis):
            sizes = tuple(extent(groups.sizes, factor) for factor in block)
            for i, group in enumerate(block):
                if not isinstance(group, str):
                    continue
                if block == (group, 1):
                    yield _Candidate(group, step, depth, node, unfactored, start, True)
                else:
                    read = _factor_read(unfactored, block, sizes, i, start)
                    yield _Candidate(group, step, depth, f"{step.name}:{group}", read, 0, False)
            start += prod(sizes)


def _factor_read(unfactored: ReadPoint, block: Block, sizes: tuple[int, ...], units: int, start: int) -> ReadPoint:
    """The read point of factor number `units` of a block, averaged over its other factors, except for numbers."""
    others = tuple(i for i, f in enumerate(block) if not isinstance(f, int) and i != units)
    return replace(unfactored, factors=sizes, start=start, units=units, averaged_factors=others)
