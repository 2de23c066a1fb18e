"""Permutes tensors that are named as those of a network, such as masks, task vectors or states of an optimiser.

No network is needed: the file of a permutation says which groups lie on which tensor.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.symmetry.permutations import Blocks, Permutation, PermutationSpec, extent, permute


def spec_as_data(spec: PermutationSpec, names: Mapping[str, str]) -> dict[str, Any]:
    """A symmetry as JSON types; `names`: of tensors that have several, as `canonical_names` gives them."""
    tied = {name: first for name, first in names.items() if name != first}
    return {"axes": dict(spec.axes), "sizes": dict(spec.sizes), "fixed": sorted(spec.fixed), "tied": tied}


def spec_of_data(data: Mapping[str, Any]) -> tuple[PermutationSpec, dict[str, str]]:
    """(the symmetry, {another name of a tensor: its name in the symmetry}) of what `spec_as_data` returned."""
    axes = {name: tuple(map(_as_tuple, blocks)) for name, blocks in data["axes"].items()}
    return PermutationSpec(axes, data["sizes"], frozenset(data["fixed"])), dict(data["tied"])


def permute_others(
    spec: PermutationSpec, permutation: Permutation, tensors: Mapping[tuple[str, ...], Tensor], tied: Mapping[str, str]
) -> tuple[dict[tuple[str, ...], Tensor], list[tuple[str, ...]]]:
    """({path: tensor, permuted as the tensor of the network with its name}, the paths of those that have such a name).

    Raises UserError if none has, or if one has another shape than the tensor of its name.

    Args:
        spec, permutation: of the network.
        tensors: by their paths, whose parts are joined by dots in a name of the network. A path may begin with further
            parts, such as (exp_avg, fc, weight).
        tied: {another name of a tensor: its name in `spec`}.
    """
    permuted, known = dict(tensors), []
    for path, tensor in tensors.items():
        suffixes = (".".join(path[i:]) for i in range(len(path)))
        if (name := next((tied.get(s, s) for s in suffixes if tied.get(s, s) in spec.axes), None)) is None:
            continue
        _check_shape(spec, ".".join(path), tensor, name)
        permuted[path] = permute(spec, permutation, {name: tensor})[name]
        known.append(path)
    if not known:
        some = ", ".join(sorted(spec.axes)[:3])
        raise UserError(f"no tensor has a name of the network ({some}, ...); found {_few(tensors)}")
    return permuted, known


def _check_shape(spec: PermutationSpec, path: str, tensor: Tensor, name: str) -> None:
    """Raise UserError unless the tensor has the shape of the network's tensor `name`, wherever a group lies."""
    axes = spec.axes[name]
    sizes = [sum(prod(extent(spec.sizes, f) for f in block) for block in blocks) or None for blocks in axes]
    if tensor.dim() != len(axes) or any(n not in (None, m) for n, m in zip(sizes, tensor.shape, strict=True)):
        needed = ", ".join("any" if n is None else str(n) for n in sizes)
        raise UserError(f"{path}: has shape {tuple(tensor.shape)}; ({needed}) is needed, that of {name} in the network")


def _as_tuple(blocks: Any) -> Blocks:
    """Blocks with tuples in place of the lists of JSON."""
    return tuple(tuple(_as_tuple(f) if isinstance(f, list) else f for f in block) for block in blocks)


def _few(tensors: Mapping[tuple[str, ...], Tensor]) -> str:
    return ", ".join(".".join(path) for path in list(tensors)[:3])
