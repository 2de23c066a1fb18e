"""A merge: the weighted mean of aligned networks, and its repair.

The activations of a mean vary less than those of the networks it is made of, layer by layer more so. A *repair* mends
that: the plug-ins of `repairs/` are `name(merge, *, ...options) -> state`, the repaired state of the same network. A
merge is no symmetry: it computes another function than its ends, and no certificate speaks of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.tensors import ComputedState
from neuralign.curves.endpoints import Division, divide
from neuralign.datasets.batches import Examples
from neuralign.datasets.images import as_is
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import Model, State, parameters
from neuralign.networks.states import mean_state
from neuralign.symmetry.tracing.trace import Trace
from neuralign.training.batch_norm import Estimate, refresh

BATCH_SIZE = 256


@dataclass(frozen=True)
class Merge:
    """Aligned networks, their mean, and the examples on which a repair may measure activations."""

    model: Model
    trace: Trace  # of the model: which outputs of a layer are hidden units
    ends: tuple[State, ...]  # the aligned networks
    weights: tuple[float, ...]  # how much of each end the merge has; they sum to one
    state: State  # the weighted mean of the ends
    examples: Examples
    statistics: frozenset[str] = frozenset()  # running statistics, which are not those of the merged network
    facts: dict[str, Any] = field(default_factory=dict)  # what a repair reports besides the state

    @property
    def ends_with_weight(self) -> list[State]:
        """The ends whose weight is not zero."""
        return [end for end, weight in zip(self.ends, self.weights, strict=True) if weight]


Repair = Callable[[Merge], State]


def merge_of(
    model: Model, trace: Trace, ends: Sequence[State], examples: Examples, weights: Sequence[float] | None = None
) -> Merge:
    """The merge of aligned networks, whose state is their mean with these weights; equal ones for None.

    Parameters and running statistics are averaged in float64; all other tensors are as `docs/states.md` says of points
    between networks. The statistics are not those of the merged network: a repair re-estimates them. Raises UserError
    if the weights do not fit, or if a tensor that has no mean differs between the ends.

    A tensor of the mean is computed whenever it is read; `dict` of the state holds them all.
    """
    shares = check_weights(weights, len(ends))
    division = divide(model, ends, next(examples.batches(IMAGES))[0])
    return Merge(model, trace, tuple(ends), shares, _mean(division, ends, shares), examples, division.estimated)


def _mean(division: Division, ends: Sequence[State], shares: Sequence[float]) -> State:
    """The mean of the ends, of which each tensor is computed whenever it is read."""
    nearest = max(range(len(shares)), key=lambda i: shares[i])
    if shares[nearest] == 1:
        return ends[nearest]
    division.demand_interpolable()
    averaged = {*division.interpolated, *division.estimated}

    def compute(name: str) -> Tensor:
        if name not in averaged:
            return ends[nearest][name]
        return mean_state([{name: end[name]} for end in ends], shares)[name]

    state = ComputedState(ends[0], compute)
    return changed(state, division.updated_from_weights(state))


def changed(state: State, changes: State) -> State:
    """A state with other values of some tensors; the others are read from `state` when they are needed."""
    return ComputedState(state, lambda name: changes[name] if name in changes else state[name])


def are_weights(weights: Sequence[float], count: int) -> bool:
    """Whether these may be the weights of so many networks."""
    return len(weights) == count and all(isfinite(w) and w >= 0 for w in weights) and abs(sum(weights) - 1) <= 1e-6


def check_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """The weights of `count` networks, equal ones for None. Raises UserError unless they fit and sum to one."""
    if weights is None:
        return (1 / count,) * count
    if not are_weights(weights, count):
        raise UserError(f"weights: found {list(weights)}; {count} numbers from 0 that sum to 1 are needed")
    return tuple(float(weight) for weight in weights)


def repaired(merge: Merge, repair: Repair | None) -> State:
    """The repaired state of a merge; the mean as it is for None.

    If the ends are equal, or one has all the weight, the merge is that network and there is nothing to repair.
    """
    return merge.state if repair is None or _is_an_end(merge) else repair(merge)


def with_fresh_statistics(model: Model, state: State, examples: Examples, seed: int = 0) -> dict[str, Tensor]:
    """The state with its running statistics re-estimated on all `examples`, in an order drawn by `seed`."""
    estimate = Estimate.on(examples, as_is, batch_size=examples.even_size(BATCH_SIZE), seed=seed)
    buffers = {name: state[name] for name, _ in model.network.named_buffers()}
    return {**state, **refresh(model, state, buffers, estimate.sample())}


def _is_an_end(merge: Merge) -> bool:
    """Whether all ends with a weight have the same parameters and running statistics."""
    first, *others = merge.ends_with_weight
    names = [*parameters(merge.model.network), *(n for n in merge.statistics if first[n].is_floating_point())]
    return all(torch.equal(end[name], first[name]) for end in others for name in names)
