"""Are two networks the same up to a permutation of their neurons? If not, which share of the units match, by layer?"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.alignment.agreement import wide
from neuralign.common.seeding import stream
from neuralign.networks.model import State
from neuralign.symmetry.permutations import Permutation, PermutationSpec, act, permute

EQUAL = 1e-5  # the largest difference of a tensor, relative to its largest number, that counts as rounding
SHUFFLES = 3  # networks of shuffled weights, from which chance is estimated
CHANCE = 0.05  # share of the units of unrelated networks that match better than chance


def distance(a: State, b: State, names: Collection[str]) -> float:
    """The distance of two networks over these tensors, divided by the mean of their norms."""
    squares = [0.0, 0.0, 0.0]
    for name in names:
        first, second = wide(a[name]), wide(b[name])
        for i, tensor in enumerate((first - second, first, second)):
            squares[i] += tensor.square().sum().item()
    between, *norms = (square**0.5 for square in squares)
    return 2 * between / sum(norms) if sum(norms) else 0.0


def are_the_same(a: State, b: State, names: Collection[str]) -> bool:
    """Whether these tensors are equal up to rounding."""

    def same(first: Tensor, second: Tensor) -> bool:
        if torch.equal(first, second) or not (first.is_floating_point() or first.is_complex()):
            return torch.equal(first, second)
        return bool((first - second).abs().max() <= EQUAL * first.abs().max())

    return all(same(a[name], b[name]) for name in names)


def matches(
    spec: PermutationSpec, a: State, b: State, names: Collection[str], align: Callable[[State], Permutation]
) -> Iterator[dict[str, Any]]:
    """One row per group: which share of its units match better than chance.

    The match of a unit is the cosine of all its weights, incoming and outgoing, in `a` and in the aligned `b`. Chance
    is the 95 % quantile of the matches of networks whose tensors have the numbers of `b` in random order, and which
    are aligned in the same way. So about 5 % of the units of unrelated networks match better.

    Columns: group, units, matched (share), cosine (mean), chance (the quantile).

    Args:
        a, b: states of the network.
        names: the tensors that count: parameters.
        align: state -> {group: (n,)}, which aligns it to `a`.
    """
    cosines = _cosines(spec, a, permute(spec, align(b), b), names)
    by_chance: dict[str, list[Tensor]] = {group: [] for group in spec.free}
    for number in range(SHUFFLES):
        draws = stream(number, "shuffled weights")
        shuffled = {**b, **{name: _shuffled(b[name], draws) for name in names}}
        for group, values in _cosines(spec, a, permute(spec, align(shuffled), shuffled), names).items():
            by_chance[group].append(values)
    for group, values in cosines.items():
        chance = torch.quantile(torch.cat(by_chance[group]).cpu(), 1 - CHANCE).item()
        matched = (values > chance).double().mean().item()
        yield dict(group=group, units=len(values), matched=matched, cosine=values.mean().item(), chance=chance)


def share_of_units(rows: Collection[Mapping[str, Any]]) -> float:
    """The share of all units that match better than chance."""
    return sum(row["matched"] * row["units"] for row in rows) / max(1, sum(row["units"] for row in rows))


def _cosines(spec: PermutationSpec, a: State, b: State, names: Collection[str]) -> dict[str, Tensor]:
    """{free group: the cosine of all weights of each unit in `a` and in `b` (n,)}."""
    weights = [_weights(spec, state, names) for state in (a, b)]
    first, second = ({group: torch.cat(w[group], 1) for group in spec.free} for w in weights)
    return {group: F.cosine_similarity(first[group], second[group]) for group in spec.free}


def _weights(spec: PermutationSpec, state: State, names: Collection[str]) -> dict[str, list[Tensor]]:
    """{free group: the weights of each unit (units, weights) in float64, for each place of the group on a tensor}."""
    pieces: dict[str, list[Tensor]] = {group: [] for group in spec.free}

    def collect(group: str, block: Tensor, dim: int) -> Tensor:
        if group in pieces:
            pieces[group].append(wide(block.movedim(dim, 0)).flatten(1))
        return block

    act(spec, {name: state[name] for name in names}, collect)
    return pieces


def _shuffled(tensor: Tensor, draws: torch.Generator) -> Tensor:
    """The numbers of a tensor in random order."""
    order = torch.randperm(tensor.numel(), generator=draws).to(tensor.device)
    return tensor.flatten()[order].view(tensor.shape)
