"""Permutes tensors that are named as those of a network, such as masks, task vectors or moments of an optimiser.

No network is needed: the file of a permutation says which groups lie on which tensor.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.symmetry.permutations import Blocks, Permutation, PermutationSpec, extent, permute

PRUNED = ("_orig", "_mask")  # what torch.nn.utils.prune adds to the name of a parameter


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

    A name of the network with an end of PRUNED is that name. Raises UserError if no tensor has a name, if one has
    another shape than the tensor of its name or is sparse, or if there is the state of an optimiser by index.

    Args:
        spec, permutation: of the network.
        tensors: by their paths, whose parts are joined by dots in a name of the network. A path may begin with further
            parts, such as (exp_avg, fc, weight), and end with one, such as (state, fc, weight, exp_avg); single numbers
            of such an end, as the count of steps, have no order and are left.
        tied: {another name of a tensor: its name in `spec`}.
    """
    permuted, known = dict(tensors), []
    for path, tensor in tensors.items():
        paths = [path] if tensor.numel() < 2 else [path, path[:-1], _unpruned(path), _unpruned(path[:-1])]
        name = next(filter(None, (_network_name(spec, tied, path) for path in paths)), None)
        if name is None:
            continue
        if tensor.layout != torch.strided:
            raise UserError(f"{'.'.join(path)}: is sparse; a dense tensor is needed (`tensor.to_dense()`)")
        _check_shape(spec, ".".join(path), tensor, name)
        permuted[path] = permute(spec, permutation, {name: tensor})[name]
        known.append(path)
    others = tensors.keys() - set(known)
    if by_index := [path for path in tensors if path in others and _is_state_by_index(path, tensors[path])]:
        raise UserError(
            f"found the state of an optimiser, with numbers in place of names ({_few(by_index)}, ...); a file "
            "is needed with the names of the network's parameters, such as <name>.exp_avg: number i is the "
            "i-th of `named_parameters()`, if the optimiser was given them in this order"
        )
    if not known:
        some = ", ".join(sorted(spec.axes)[:3])
        raise UserError(f"no tensor has a name of the network ({some}, ...); found {_few(tensors)}")
    return permuted, known


def _network_name(spec: PermutationSpec, tied: Mapping[str, str], path: tuple[str, ...]) -> str | None:
    """The longest end of a path that is a name of the network; None if none is."""
    suffixes = (".".join(path[i:]) for i in range(len(path)))
    return next((tied.get(s, s) for s in suffixes if tied.get(s, s) in spec.axes), None)


def _unpruned(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path without an end of PRUNED."""
    original, mask = PRUNED
    return path and (*path[:-1], path[-1].removesuffix(original).removesuffix(mask))


def _is_state_by_index(path: tuple[str, ...], tensor: Tensor) -> bool:
    """Whether this looks like the state of an optimiser for one parameter, as PyTorch and Lightning save it.

    A single number, such as the count of steps, has no order that could be wrong.
    """
    numbered = any(part == "state" and following.isdecimal() for part, following in pairwise(path))
    return tensor.numel() > 1 and (numbered or "optimizer_states" in path)


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


def _few(paths: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(".".join(path) for path in list(paths)[:3])
