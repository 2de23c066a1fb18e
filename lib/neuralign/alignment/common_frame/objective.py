"""The agreement of several networks in one frame: the sum over all pairs of the inner products of their parameters."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import TypeVar

import torch
from torch import Tensor

from neuralign.alignment.agreement import Agreement, Matrices, wide
from neuralign.alignment.common_frame.cohort import Cohort
from neuralign.common.tensors import ComputedState
from neuralign.networks.model import State, parameters
from neuralign.symmetry.permutations import Permutation, PermutationSpec, permute

Value = TypeVar("Value")


class JointAgreement:
    """The agreement F = sum over p < q of <T_p state_p, T_q state_q>, as a function of all permutations.

    It is a `MatchingObjective`, whose groups are those of each network: "2/conv1" is the group "conv1" of the third.
    Those of the first network are fixed. It equals (|sum of T_p state_p|^2 - sum of |T_p state_p|^2) / 2, which takes
    time in proportion to the number of networks, not of pairs. On permutations the last sum is constant, so that F is
    largest where the norm of the mean is (Crisostomi et al. 2024).

    Args:
        spec: where each group lies in each network.
        states: of the networks.
        names: the tensors of the states that count, if free groups lie on them: the parameters.
        shares: of the networks in the mean; F is that of the states, each times its share and their number.
    """

    def __init__(self, spec: PermutationSpec, states: Sequence[State], names: Collection[str], shares: Sequence[float]):
        self.states, self.scales = states, [share * len(states) for share in shares]
        self.agreements = [Agreement(spec, states[0], state, names) for state in states]
        pairwise = self.agreements[0]
        self.names = list(pairwise.counts)
        self.degree = 2 * pairwise.degree  # along a straight line of matrices
        members = range(len(states))
        sizes = {f"{p}/{g}": n for p in members for g, n in spec.sizes.items()}
        fixed = frozenset(g for g in sizes if _member(g) == 0 or _group(g) in spec.fixed)
        self.spec = PermutationSpec({}, sizes, fixed)
        self.single = frozenset(g for g in self.spec.free if _group(g) in pairwise.single)
        self.rounded = frozenset(g for g in self.spec.free if _group(g) in self.agreements[_member(g)].rounded)

    @classmethod
    def of(cls, cohort: Cohort) -> "JointAgreement":
        """The agreement of a cohort's networks, over their parameters."""
        return cls(cohort.trace.spec, cohort.states, parameters(cohort.model.network), cohort.shares)

    @property
    def norms(self) -> float:
        """The sum over all pairs of the products of their norms: an upper bound of F."""
        total, squares = 0.0, 0.0
        for scale, state in zip(self.scales, self.states, strict=True):
            square = scale**2 * sum(float(wide(state[name]).square().sum()) for name in self.names)
            total, squares = total + square**0.5, squares + square
        return (total**2 - squares) / 2

    def value(self, permutation: Permutation) -> float:
        """See `MatchingObjective`."""
        each = split(permutation, len(self.states))
        members = range(len(self.states))
        return sum(float(_agreement([self._moved(p, each[p], name) for p in members])) for name in self.names)

    def gain(self, group: str, before: Permutation, after: Permutation) -> float:
        """See `MatchingObjective`."""
        p, own = _member(group), (split(permutation, len(self.states)) for permutation in (before, after))
        first, second = (permutations[p] for permutations in own)
        return self.scales[p] * self._against_others(p, before).gain(_group(group), first, second)

    def score(self, group: str, permutation: Permutation) -> Tensor:
        """See `MatchingObjective`."""
        p = _member(group)
        own = split(permutation, len(self.states))[p]
        return self.scales[p] * self._against_others(p, permutation).score(_group(group), own)

    def soft_value(self, matrices: Matrices, names: Collection[str] | None = None) -> Tensor:
        """See `MatchingObjective`. `names`: the tensors that count; None: all."""
        mixed = self._mixed(matrices, names)
        return torch.stack([_agreement([state[name] for state in mixed]) for name in mixed[0]]).sum()

    def soft_score(self, group: str, matrices: Matrices) -> Tensor:
        """See `MatchingObjective`."""
        p = _member(group)
        mixed = self._mixed(matrices)
        others = {name: _sum([state[name] for q, state in enumerate(mixed) if q != p]) for name in self.names}
        agreement = _with_target(self.agreements[p], others)
        return self.scales[p] * agreement.soft_score(_group(group), split(matrices, len(self.states))[p])

    def _mixed(self, matrices: Matrices, names: Collection[str] | None = None) -> list[dict[str, Tensor]]:
        """The scaled tensors of these names of every network, mixed by its matrices; None: all that count."""
        each = split(matrices, len(self.states))
        mixed = [agreement.mixed(own, names) for agreement, own in zip(self.agreements, each, strict=True)]
        return [{n: s * t for n, t in state.items()} for s, state in zip(self.scales, mixed, strict=True)]

    def _against_others(self, p: int, permutation: Permutation) -> Agreement:
        """The agreement of network p with the sum of the others, which are where the permutation puts them."""
        each = split(permutation, len(self.states))
        others = [q for q in range(len(self.states)) if q != p]

        return _with_target(
            self.agreements[p],
            ComputedState(self.names, lambda name: _sum([self._moved(q, each[q], name) for q in others])),
        )

    def _moved(self, p: int, permutation: Permutation, name: str) -> Tensor:
        """A scaled tensor of network p, permuted."""
        state = {name: wide(self.states[p][name])}
        return self.scales[p] * permute(self.agreements[p].spec, permutation, state)[name]


def join(permutations: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """What belongs to the groups of each of several networks, as one mapping of "number/group"."""
    return {f"{p}/{group}": value for p, own in enumerate(permutations) for group, value in own.items()}


def split(joint: Mapping[str, Value], count: int) -> list[dict[str, Value]]:
    """What `join` joined, of `count` networks."""
    each: list[dict[str, Value]] = [{} for _ in range(count)]
    for name, value in joint.items():
        each[_member(name)][_group(name)] = value
    return each


def _member(name: str) -> int:
    return int(name.partition("/")[0])


def _group(name: str) -> str:
    return name.partition("/")[2]


def _agreement(tensors: Sequence[Tensor]) -> Tensor:
    """The sum over all pairs of the inner products of tensors of one shape."""
    return (_sum(tensors).square().sum() - torch.stack([t.square().sum() for t in tensors]).sum()) / 2


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def _with_target(agreement: Agreement, target: State) -> Agreement:
    changed = copy(agreement)
    changed.target = target
    return changed
