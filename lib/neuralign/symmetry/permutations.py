"""Permutation symmetry as data: which channel groups lie on which axis of which tensor, and the action on them.

A *group* is a set of channels that must be reordered together. An axis of a tensor is described by blocks laid end to
end on it. A block is a product of factors, outer to inner: names of groups, numbers of positions that stay in place,
and axes that have blocks of their own, a number last. ("a", 1) is the channels of a; ("a", 64) a feature map flattened
channel by channel; ("heads", "a", 1) the channels of every head, alike in each; ("heads", (("q", 1), ("v", 1)), 1) the
same where every head has the channels of q and then those of v; (5,) five places that no group moves.
No function here knows an architecture (spec of Git Re-Basin, Ainsworth et al. 2023, made general).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Permutation = Mapping[str, Tensor]  # group -> (n,) int64: new channel i is old channel permutation[i]
Block = tuple["str | int | Axis", ...]  # factors, outer to inner
Axis = tuple[Block, ...]  # laid end to end; () for an axis no group lies on
Action = Callable[[str, Tensor, int], Tensor]  # of a group on a tensor that has its channels on this axis
MOVES = ("group", "units", "moved", "moved_from_start")  # columns of a table of `moves`


@dataclass(frozen=True)
class Spec:
    axes: Mapping[str, tuple[Axis, ...]]  # tensor name -> one Axis per dimension
    sizes: Mapping[str, int]  # group -> number of channels
    fixed: frozenset[str] = frozenset()  # groups that touch the input or the output

    @cached_property
    def free(self) -> tuple[str, ...]:
        """The groups one may permute, in the order of the graph."""
        return tuple(g for g in self.sizes if g not in self.fixed)


def extent(sizes: Mapping[str, int], factor: str | int | Axis) -> int:
    """How many places a factor of a block has, where groups have these sizes."""
    if isinstance(factor, int):
        return factor
    if isinstance(factor, str):
        return sizes[factor]
    return sum(prod(extent(sizes, inner) for inner in block) for block in factor)


def fingerprint(spec: Spec) -> str:
    """A digest (sha256) of which groups lie where and how large they are; equal for equal symmetries."""
    told = [sorted(spec.axes.items()), sorted(spec.sizes.items()), sorted(spec.fixed)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def permute(spec: Spec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """`state` with its channels reordered. Groups absent from `permutation` stay in place."""

    def reorder(group: str, block: Tensor, dim: int) -> Tensor:
        return block.index_select(dim, permutation[group].to(block.device)) if group in permutation else block

    return _act(spec, state, reorder)


def transport(spec: Spec, matrices: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    """`state` with its channels mixed: channel i becomes the sum over j of matrices[group][i, j] times channel j.

    On permutation matrices this is `permute`; on doubly stochastic ones a soft permutation, differentiable in both.
    """

    def mix(group: str, block: Tensor, dim: int) -> Tensor:
        if group not in matrices:
            return block
        return torch.tensordot(matrices[group].to(block.dtype), block, ([1], [dim])).movedim(0, dim)

    return _act(spec, state, mix)


def identity(spec: Spec) -> dict[str, Tensor]:
    """The permutation that moves nothing."""
    return {g: torch.arange(spec.sizes[g]) for g in spec.free}


def random(spec: Spec, generator: torch.Generator) -> dict[str, Tensor]:
    """A uniformly random admissible permutation."""
    return {g: torch.randperm(spec.sizes[g], generator=generator) for g in spec.free}


def inverse(permutation: Permutation) -> dict[str, Tensor]:
    """The permutation that undoes `permutation`."""
    return {g: p.argsort() for g, p in permutation.items()}


def moves(permutation: Permutation, start: Permutation, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per group: group, units, moved (from their first place), moved_from_start, and the common `facts`."""

    def apart(one: Tensor, other: Tensor) -> int:
        return int((one != other).sum())

    return [
        {"group": g, "units": len(p), "moved": apart(p, torch.arange(len(p))), "moved_from_start": apart(p, start[g])}
        | dict(facts)
        for g, p in permutation.items()
    ]


def check(spec: Spec, permutation: Permutation) -> None:
    """Refuse anything that is not a permutation of free groups of the right size."""
    for group, index in permutation.items():
        if group not in spec.free:
            raise ValueError(f"group {group!r} cannot be permuted; the free groups are {list(spec.free)}")
        if index.dtype != torch.int64 or not torch.equal(index.sort().values, torch.arange(spec.sizes[group])):
            raise ValueError(f"group {group!r}: not a permutation of {spec.sizes[group]} channels")


def _act(spec: Spec, state: State, action: Callable[[str, Tensor, int], Tensor]) -> dict[str, Tensor]:
    """Apply `action(group, block, dim)` to every block of channels; `block` has the channels on axis `dim`."""
    out = {}
    for name, tensor in state.items():
        for dim, axis in enumerate(spec.axes.get(name, ())):
            if axis:
                tensor = _act_along(spec, tensor, dim, axis, action)
        out[name] = tensor
    return out


def _act_along(spec: Spec, tensor: Tensor, dim: int, axis: Axis, action: Action) -> Tensor:
    """The same for one axis of a tensor, or for one that is a factor of it."""
    sizes = [[extent(spec.sizes, factor) for factor in block] for block in axis]
    parts = tensor.split([prod(s) for s in sizes], dim)
    blocks = [_act_on(spec, part, dim, b, s, action) for part, b, s in zip(parts, axis, sizes, strict=True)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim)


def _act_on(spec: Spec, part: Tensor, dim: int, block: Block, sizes: Sequence[int], action: Action) -> Tensor:
    """The same for one block."""
    part = part.unflatten(dim, sizes)
    for place, factor in enumerate(block):
        if isinstance(factor, str):
            part = action(factor, part, dim + place)
        elif not isinstance(factor, int):
            part = _act_along(spec, part, dim + place, factor, action)
    return part.flatten(dim, dim + len(block) - 1)
