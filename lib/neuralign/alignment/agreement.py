"""The agreement of two networks: the inner product of their parameters when the source's neurons are permuted.

Weight matching maximises it (Ainsworth et al. 2023, section 3.2). On permutations it is largest where the distance of
the parameters is smallest. Only parameters count, not buffers such as running statistics; no data are needed.

A tensor is read from the states whenever it is needed, and at most a few are held at a time, so that networks that do
not fit into memory can be aligned from files (`common.tensors.TensorFile`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from neuralign.networks.model import State
from neuralign.symmetry.permutations import Block, Blocks, Permutation, PermutationSpec, act, mix

Matrices = Mapping[str, Tensor]  # group -> (n, n)
Move = Callable[[str, Tensor, int], Tensor]  # (group, tensor, dimension that is its channels) -> moved tensor
# A tensor of more numbers is multiplied in blocks of COLUMNS, each in float32 (in float64 if the tensor is float64),
# which are summed in float64. An entry of a score is then within COLUMNS * 2^-24 = 3e-5 of the sum of its products'
# absolute values, in practice within 1e-7; whether a match is kept is decided by the agreement in float64.
LARGE = 2**22
COLUMNS = 512


class MatchingObjective(Protocol):
    """What a search over permutations maximises: a polynomial in the matrices of the groups."""

    @property
    def spec(self) -> PermutationSpec:
        """Where each group lies."""
        ...

    @property
    def single(self) -> frozenset[str]:
        """The free groups in whose matrix it is affine."""
        ...

    @property
    def rounded(self) -> frozenset[str]:
        """The groups whose score is rounded to less than float64."""
        ...

    def value(self, permutation: Permutation) -> float:
        """Its value at a permutation; groups that are absent stay in place. In float64."""
        ...

    def gain(self, group: str, before: Permutation, after: Permutation) -> float:
        """How much it rises from one permutation to another that differs from it in `group` only."""
        ...

    def score(self, group: str, permutation: Permutation) -> Tensor:
        """The derivative by the permutation matrix of `group`, (n, n) in float64, at a permutation.

        Entry [i, j] says how well channel i of the target agrees with channel j of the source while all other channels
        stay where the permutation puts them.
        """
        ...

    def soft_value(self, matrices: Matrices) -> Tensor:
        """Its value where channels are mixed by `matrices`, as by `mix`; a float64 scalar, differentiable."""
        ...

    def soft_score(self, group: str, matrices: Matrices) -> Tensor:
        """The derivative by the matrix of `group`, (n, n) in float64, where channels are mixed by `matrices`."""
        ...


class Agreement:
    """The agreement F(P) = sum over parameters of <target, P source>, as a function of the permutation P.

    A group is *single* if F is affine in its permutation matrix: no tensor is multiplied by it twice. The stream of
    `x + linear(x)` is not single, because it lies on both axes of the weight.

    Args:
        spec: where each group lies.
        target: the state of the network that stays.
        source: the state of the network whose neurons are permuted.
        names: the tensors of both states that count, if free groups lie on them: the parameters.
    """

    def __init__(self, spec: PermutationSpec, target: State, source: State, names: Collection[str]):
        self.spec, self.target, self.source = spec, target, source
        free = frozenset(spec.free)
        named = [name for name in names if name in spec.axes and _is_number(target[name])]
        counts = {name: sum(map(_count_occurrences, spec.axes[name]), Counter()) for name in named}
        self.counts = {name: count for name, count in counts.items() if not free.isdisjoint(count)}
        self.names = list(self.counts)
        self.of_group = {g: [name for name, count in self.counts.items() if count[g]] for g in spec.free}
        large = {name for name in self.counts if _is_rounded(target[name]) and _is_rounded(source[name])}
        self.rounded = frozenset(g for g, on in self.of_group.items() if not large.isdisjoint(on))

    @cached_property
    def single(self) -> frozenset[str]:
        """The free groups that are single."""
        axes = self.spec.axes
        return frozenset(g for g in self.spec.free if all(_degree(axes[n], {g}) == 1 for n in self.of_group[g]))

    @cached_property
    def degree(self) -> int:
        """The degree of F as a polynomial along a straight line of matrices."""
        return max((_degree(self.spec.axes[name], self.spec.free) for name in self.counts), default=0)

    @cached_property
    def norms(self) -> float:
        """The product of the norms of both networks' parameters on which free groups lie: an upper bound of F."""
        squares = [
            sum(float(part.double().square().sum()) for n in self.counts for part in _parts(_real(state[n])))
            for state in (self.target, self.source)
        ]
        return (squares[0] * squares[1]) ** 0.5

    def value(self, permutation: Permutation) -> float:
        """See `MatchingObjective`."""
        return self._sum(self.counts, _mover(permutation))

    def gain(self, group: str, before: Permutation, after: Permutation) -> float:
        """See `MatchingObjective`."""
        return self._sum(self.of_group[group], _mover(after)) - self._sum(self.of_group[group], _mover(before))

    def soft_value(self, matrices: Matrices, names: Collection[str] | None = None) -> Tensor:
        """See `MatchingObjective`. `names`: the tensors that count; None: all."""
        mixed = self.mixed(matrices, names)
        products = [torch.dot(wide(self.target[n]).flatten(), tensor.flatten()) for n, tensor in mixed.items()]
        return torch.stack(products).sum()

    def soft_distance(self, matrices: Matrices) -> Tensor:
        """The squared distance of the target's parameters to the source's, mixed by `matrices`; as `soft_value`."""
        mixed = self.mixed(matrices)
        return torch.stack([(wide(self.target[n]) - mixed[n]).square().sum() for n in self.counts]).sum()

    def score(
        self,
        group: str,
        permutation: Permutation,
        names: Sequence[str] | None = None,
        averaged: Collection[str] = (),
    ) -> Tensor:
        """See `MatchingObjective`. `names`: the tensors that count; None: all.

        `averaged`: groups whose channels are all replaced by their mean, as by the matrix whose entries are all equal.
        """
        return self._score(group, _mover(permutation, averaged), names)

    def soft_score(self, group: str, matrices: Matrices) -> Tensor:
        """See `MatchingObjective`."""
        return self._score(group, _mixer(matrices))

    def mixed(self, matrices: Matrices, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The source's tensors of these names, mixed by `matrices`, in float64; None: all that count."""
        source = {name: wide(self.source[name]) for name in (self.counts if names is None else names)}
        device = next(iter(source.values())).device
        return mix(self.spec, {g: m.to(device) for g, m in matrices.items()}, source)

    def _sum(self, names: Iterable[str], move: Move) -> float:
        total = 0.0
        for name in names:
            moved = act(self.spec, {name: _real(self.source[name])}, move)[name]
            for a, b in zip(_parts(_real(self.target[name])), _parts(moved), strict=True):
                total += float(torch.dot(a.double(), b.double()))
        return total

    def _score(self, group: str, move: Move, names: Sequence[str] | None = None) -> Tensor:
        size = self.spec.sizes[group]
        total = torch.zeros(size, size, dtype=torch.float64)
        for name in self.of_group[group] if names is None else names:
            target, source = _real(self.target[name]), _real(self.source[name])
            for k in range(self.counts[name][group]):  # the product rule: all factors but the k-th are moved
                moved = act(self.spec, {name: source}, _all_but(k, group, move))[name]
                for rows, columns in zip(
                    _channels(self.spec, name, group, k, target),
                    _channels(self.spec, name, group, k, moved),
                    strict=True,
                ):
                    for product in _products(rows, columns):
                        total += product.cpu()
        return total


def _channels(spec: PermutationSpec, name: str, group: str, occurrence: int, tensor: Tensor) -> list[Tensor]:
    """The channels of a group at one of its places on a tensor, as rows (n, k)."""
    rows: list[Tensor] = []
    seen = 0

    def collect(factor: str, part: Tensor, dim: int) -> Tensor:
        nonlocal seen
        if factor == group:
            if seen == occurrence:
                rows.append(part.movedim(dim, 0).flatten(1))
            seen += 1
        return part

    act(spec, {name: tensor}, collect)
    return rows


def _all_but(occurrence: int, group: str, move: Move) -> Move:
    """`move` for every factor except one occurrence of a group."""
    seen = 0

    def move_others(factor: str, part: Tensor, dim: int) -> Tensor:
        nonlocal seen
        if factor == group:
            seen += 1
            if seen - 1 == occurrence:
                return part
        return move(factor, part, dim)

    return move_others


def _products(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Terms (n, n) whose sum is rows @ columns.T, of matrices (n, k); see LARGE."""
    if rows.numel() <= LARGE:
        yield rows.double() @ columns.double().T
        return
    dtype = torch.float64 if torch.float64 in (rows.dtype, columns.dtype) else torch.float32
    for a, b in zip(rows.split(COLUMNS, 1), columns.split(COLUMNS, 1), strict=True):
        yield a.to(dtype) @ b.to(dtype).T


def _mover(permutation: Permutation, averaged: Collection[str] = ()) -> Move:
    def move(group: str, part: Tensor, dim: int) -> Tensor:
        if group in averaged:
            precise = torch.promote_types(part.dtype, torch.float32)
            return part.mean(dim, keepdim=True, dtype=precise).to(part.dtype).expand_as(part)
        return part.index_select(dim, permutation[group].to(part.device)) if group in permutation else part

    return move


def _mixer(matrices: Matrices) -> Move:
    def move(group: str, part: Tensor, dim: int) -> Tensor:
        if group not in matrices:
            return part
        matrix = matrices[group].to(part.device, torch.float64)
        return torch.tensordot(matrix, part.double(), ([1], [dim])).movedim(0, dim)

    return move


def _count_occurrences(blocks: Blocks) -> Counter[str]:
    """How often each group lies on an axis."""
    total: Counter[str] = Counter()
    for factor in (factor for block in blocks for factor in block):
        if isinstance(factor, str):
            total[factor] += 1
        elif not isinstance(factor, int):
            total += _count_occurrences(factor)
    return total


def _degree(axes: Sequence[Blocks], groups: Collection[str]) -> int:
    """How many factors of these groups multiply the same number of a tensor, at most."""

    def degree_of_block(block: Block) -> int:
        return sum(
            int(f in groups) if isinstance(f, str) else 0 if isinstance(f, int) else _degree([f], groups) for f in block
        )

    return sum(max(map(degree_of_block, blocks), default=0) for blocks in axes)


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """The numbers of a tensor in their order, as vectors of at most LARGE."""
    return tensor.flatten().split(LARGE)


def _is_rounded(tensor: Tensor) -> bool:
    """Whether products with this tensor are computed in float32."""
    return tensor.dtype != torch.float64 and _real(tensor).numel() > LARGE


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _real(tensor: Tensor) -> Tensor:
    """A tensor without gradient; a complex one has its real and imaginary parts in a last dimension."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()


def wide(tensor: Tensor) -> Tensor:
    """A tensor without gradient in float64; a complex one has its parts in a last dimension."""
    return _real(tensor).double()
