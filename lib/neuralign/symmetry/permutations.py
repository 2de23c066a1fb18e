"""Permutation symmetry as data: which group of channels lies on which axis of which tensor, and how to permute them.

A *group* is a set of channels that must be permuted together. An axis (one dimension of a tensor) consists of *blocks*,
laid end to end. A block is a product of *factors*, outer to inner, flattened; the last factor is a number. A factor is

- the name of a group;
- a number of positions that stay in place;
- a tuple of blocks, laid end to end.

Examples of blocks:

    ("a", 1)                                the channels of group a
    ("a", 64)                               a feature map of 64 pixels, flattened channel by channel
    ("heads", "a", 1)                       the channels of every head, permuted alike in all of them
    ("heads", (("q", 1), ("v", 1)), 1)      the same where every head has the channels of q, then those of v
    (5,)                                    five positions that no group moves

No function here knows an architecture. This generalises the specification of Git Re-Basin (Ainsworth et al. 2023).
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from neuralign.common.tensors import ComputedState
from neuralign.networks.model import State
from neuralign.networks.parameters import ALIGNED

Permutation = Mapping[str, Tensor]  # group -> (n,) int64: new channel i is old channel permutation[i]
Block = tuple["str | int | Blocks", ...]  # factors, outer to inner
Blocks = tuple[Block, ...]  # of an axis, laid end to end; () for an axis on which no group lies
Action = Callable[[str, Tensor, int], Tensor]  # (group, tensor, dimension that is the group's channels) -> tensor
MOVES = ("group", "units", "moved", "moved_from_start")  # columns of the rows of `move_counts`


@dataclass(frozen=True)
class PermutationSpec:
    """Which groups lie where on the tensors of a network, and which of them are fixed."""

    axes: Mapping[str, tuple[Blocks, ...]]  # tensor name -> the blocks of each dimension
    sizes: Mapping[str, int]  # group -> number of channels
    fixed: frozenset[str] = frozenset()  # groups that must not be permuted, such as those of the input and the output

    @cached_property
    def free(self) -> tuple[str, ...]:
        """The groups that may be permuted, in the order of the network."""
        return tuple(g for g in self.sizes if g not in self.fixed)


def extent(sizes: Mapping[str, int], factor: str | int | Blocks) -> int:
    """The number of positions of a factor, given the sizes of groups."""
    if isinstance(factor, int):
        return factor
    if isinstance(factor, str):
        return sizes[factor]
    return sum(prod(extent(sizes, inner) for inner in block) for block in factor)


def fingerprint(spec: PermutationSpec) -> str:
    """A sha256 digest of which groups lie where and how large they are; equal for equal symmetries."""
    content = [sorted(spec.axes.items()), sorted(spec.sizes.items()), sorted(spec.fixed)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def permute(spec: PermutationSpec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """`state` with its channels permuted: new channel i is old channel permutation[group][i].

    Groups that are absent from `permutation` stay in place, as do tensors that `spec` does not name.
    """

    def select(group: str, block: Tensor, dim: int) -> Tensor:
        return block.index_select(dim, permutation[group].to(block.device)) if group in permutation else block

    return act(spec, state, select)


def permute_when_read(spec: PermutationSpec, permutation: Permutation, state: State) -> ComputedState:
    """As `permute`, but each tensor is permuted whenever it is read."""
    return ComputedState(state.keys(), lambda name: permute(spec, permutation, {name: state[name]})[name])


def mix(spec: PermutationSpec, matrices: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    """`state` with its channels mixed: channel i becomes the sum over j of matrices[group][i, j] times channel j.

    `matrices`: (n, n) for each group; groups that are absent stay in place. With permutation matrices this is
    `permute`, with doubly stochastic ones a soft permutation. Differentiable in the matrices and the state.
    """
    mixed, other_axes = dict(state), dict(spec.axes)
    for (group, dtype), dims in _simple_axes(spec, matrices, state).items():
        parts = {n: mixed[n].unflatten(dim, (spec.sizes[group], -1)).movedim(dim, 0) for n, dim in dims.items()}
        widths = [part[0].numel() for part in parts.values()]
        gap = -sum(widths) % ALIGNED  # without it the product of large matrices takes up to 1.7 times as long
        columns = [part.flatten(1) for part in parts.values()]
        # one product for all tensors, because on a GPU the launch of a product takes longer than its computation
        product = matrices[group].to(dtype) @ torch.cat([*columns, columns[0].new_zeros(spec.sizes[group], gap)], 1)
        for (name, part), piece in zip(parts.items(), product.split([*widths, gap], 1), strict=False):
            mixed[name] = piece.view_as(part).movedim(0, dims[name]).reshape(state[name].shape)
            other_axes[name] = tuple(() if dim == dims[name] else b for dim, b in enumerate(other_axes[name]))

    def mix_block(group: str, block: Tensor, dim: int) -> Tensor:
        if group not in matrices:
            return block
        return torch.tensordot(matrices[group].to(block.dtype), block, ([1], [dim])).movedim(0, dim)

    return act(replace(spec, axes=other_axes), mixed, mix_block)


def _simple_axes(
    spec: PermutationSpec, groups: Collection[str], state: State
) -> dict[tuple[str, torch.dtype], dict[str, int]]:
    """{(group, dtype): {tensor name: dimension}} of axes that have the channels of one of `groups` and nothing else.

    Of two such axes of one tensor and group only the first is included. Large groups come first, but those that share a
    tensor with one before them last: until then what they act on is as in `state`, and needs no gradient if that needs
    none.
    """
    axes: dict[tuple[str, torch.dtype], dict[str, int]] = {}
    for name, tensor in state.items():
        for dim, blocks in enumerate(spec.axes.get(name, ())):
            if len(blocks) == 1 and len(blocks[0]) == 2 and blocks[0][0] in groups:
                axes.setdefault((str(blocks[0][0]), tensor.dtype), {}).setdefault(name, dim)
    visited: set[str] = set()
    first, later = {}, {}
    for key, dims in sorted(axes.items(), key=lambda item: -spec.sizes[item[0][0]]):
        if visited.isdisjoint(dims):
            visited |= dims.keys()
            first[key] = dims
        else:
            later[key] = dims
    return first | later


def identity(spec: PermutationSpec) -> dict[str, Tensor]:
    """The identity permutation of every free group."""
    return {g: torch.arange(spec.sizes[g]) for g in spec.free}


def random(spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """A uniformly random permutation of every free group."""
    return {g: torch.randperm(spec.sizes[g], generator=generator) for g in spec.free}


def inverse(permutation: Permutation) -> dict[str, Tensor]:
    """The permutation that undoes `permutation`."""
    return {g: p.argsort() for g, p in permutation.items()}


def compose(first: Permutation, second: Permutation) -> dict[str, Tensor]:
    """The permutation that does what `first` and then `second` do, of the groups of `first`."""
    return {g: p[second[g]] for g, p in first.items()}


def move_counts(permutation: Permutation, start: Permutation, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How many units of each group a permutation moves, as one row per group: the columns MOVES, and the `facts`.

    "moved" counts the units that differ from the identity, "moved_from_start" those that differ from `start`.
    """

    def count_different(first: Tensor, second: Tensor) -> int:
        return int((first != second).sum())

    return [
        {
            "group": group,
            "units": len(index),
            "moved": count_different(index, torch.arange(len(index))),
            "moved_from_start": count_different(index, start[group]),
        }
        | dict(facts)
        for group, index in permutation.items()
    ]


def check(spec: PermutationSpec, permutation: Permutation) -> None:
    """Raise ValueError unless every index of `permutation` is a permutation of all channels of a free group."""
    for group, index in permutation.items():
        if group not in spec.free:
            raise ValueError(f"group {group!r} cannot be permuted; the free groups are {list(spec.free)}")
        n = spec.sizes[group]
        no_permutation = f"group {group!r}: not a permutation of {n} channels"
        if index.dtype != torch.int64 or index.shape != (n,):
            found = f"{index.dtype} of shape {tuple(index.shape)}"
            raise ValueError(f"{no_permutation}: found {found}; torch.int64 of shape ({n},) is needed")
        if not torch.equal(index.sort().values, torch.arange(n)):
            raise ValueError(no_permutation)


def act(spec: PermutationSpec, state: State, action: Action) -> dict[str, Tensor]:
    """`state` with `action` applied wherever a group lies on one of its tensors, in the order of its dimensions."""
    out = {}
    for name, tensor in state.items():
        for dim, blocks in enumerate(spec.axes.get(name, ())):
            if blocks:
                tensor = _act_on_axis(spec, tensor, dim, blocks, action)
        out[name] = tensor
    return out


def _act_on_axis(spec: PermutationSpec, tensor: Tensor, dim: int, blocks: Blocks, action: Action) -> Tensor:
    """`tensor` with `action` applied to all groups on its dimension `dim`, which has these blocks."""
    sizes = [[extent(spec.sizes, factor) for factor in block] for block in blocks]
    parts = tensor.split([prod(s) for s in sizes], dim)
    results = [_act_on_block(spec, part, dim, b, s, action) for part, b, s in zip(parts, blocks, sizes, strict=True)]
    return results[0] if len(results) == 1 else torch.cat(results, dim)


def _act_on_block(
    spec: PermutationSpec, part: Tensor, dim: int, block: Block, sizes: Sequence[int], action: Action
) -> Tensor:
    """`part` with `action` applied to all groups on its dimension `dim`, a block with factors of these sizes."""
    part = part.unflatten(dim, sizes)
    for i, factor in enumerate(block):
        if isinstance(factor, str):
            part = action(factor, part, dim + i)
        elif not isinstance(factor, int):
            part = _act_on_axis(spec, part, dim + i, factor, action)
    return part.flatten(dim, dim + len(block) - 1)
