"""A network's permutation symmetry as plain data, which programs can use that have neither this library nor PyTorch."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain, groupby
from math import prod
from typing import Any

from neuralign.symmetry.permutations import Axis, Block, extent, fingerprint
from neuralign.symmetry.tracing.trace import Trace

NO_UNITS = "its places are positions of a kernel, of tokens or of constants, not units"
UNREACHED = "no run used the tensor"
ONE = "it has one place only"
PlainBlock = list[Any]  # factors, outer to inner: the name of a free group, how many places stay, or blocks


def export(trace: Trace) -> dict[str, Any]:
    """The free groups of a network, and what each axis of each of its tensors is made of.

    groups: {name: size} of those that may be permuted, in any way and independently of each other.
    tensors: {name: [{size, blocks, frozen} for each axis]} of all parameters and buffers. `blocks` are laid end to end
    on the axis and always fill it. A block is a product of factors, outer to inner: the name of a free group, a number
    of places that stay where they are, or a list of blocks. frozen: why not all units on the axis may be permuted; null
    where all may.
    symmetry: a digest (sha256) of the whole; files of permutations have the same one in their metadata.
    modes: {mode: why the network was not run in it, "" if it was}. unreached: tensors that no run used.
    """
    network, spec = trace.network.network, trace.spec
    tensors = dict(
        chain(network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    )
    reasons = _reasons_of_groups(trace)

    def described(name: str, dim: int, size: int) -> dict[str, Any]:
        axis = spec.axes[name][dim] if name in spec.axes else ()
        blocks = _plain(trace, axis) if axis else [[size]]
        frozen = trace.frozen.get(f"{name}[{dim}]")
        if frozen is None and not any(_groups(blocks)):
            fixed = next((reasons[group] for group in _groups(axis) if group in reasons), NO_UNITS)
            frozen = UNREACHED if name in trace.unreached else ONE if size == 1 else fixed
        return {"size": size, "blocks": blocks, "frozen": frozen}

    return {
        "groups": {group: spec.sizes[group] for group in spec.free},
        "tensors": {
            name: [described(name, dim, size) for dim, size in enumerate(tensor.shape)]
            for name, tensor in tensors.items()
        },
        "symmetry": fingerprint(spec),
        "modes": dict(trace.modes),
        "unreached": list(trace.unreached),
    }


def rows(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same as a table: one row for each axis, and for an axis of several free groups one for each of them.

    tensor, axis (from 0), size; group (empty: none is free) and its number of units; the axis's blocks as JSON; frozen.
    """
    for tensor, axes in data["tensors"].items():
        for i, axis in enumerate(axes):
            for group in dict.fromkeys(_groups(axis["blocks"])) or [""]:
                yield {
                    "tensor": tensor,
                    "axis": i,
                    "size": axis["size"],
                    "group": group,
                    "units": data["groups"].get(group, ""),
                    "blocks": json.dumps(axis["blocks"]),
                    "frozen": axis["frozen"] or "",
                }


def _plain(trace: Trace, axis: Axis) -> list[PlainBlock]:
    """Blocks with the free groups only; what no free group moves is a number, and numbers side by side are one."""
    blocks: list[PlainBlock] = []
    for block in axis:
        factors = _plain_factors(trace, block)
        if blocks and _is_still(blocks[-1]) and _is_still(factors):
            blocks[-1] = [blocks[-1][0] + factors[0]]
        else:
            blocks.append(factors)
    return blocks


def _plain_factors(trace: Trace, block: Block) -> PlainBlock:
    factors: PlainBlock = []
    for factor in block:
        if isinstance(factor, str) and factor not in trace.spec.fixed:
            factors.append(factor)
        elif isinstance(factor, tuple) and any(_groups(inner := _plain(trace, factor))):
            factors.append(inner)
        else:
            factors.append(extent(trace.spec.sizes, factor))
    merged = [
        [prod(run)] if still else run
        for still, run in ((s, list(r)) for s, r in groupby(factors, lambda factor: isinstance(factor, int)))
    ]
    several = [factor for factor in chain(*merged) if factor != 1]
    return several or [1]


def _is_still(block: PlainBlock) -> bool:
    return not any(_groups([block]))


def _groups(blocks: Any) -> Iterator[str]:
    """Names of the groups on an axis."""
    for factor in chain(*blocks):
        if isinstance(factor, str):
            yield factor
        elif not isinstance(factor, int):
            yield from _groups(factor)


def _reasons_of_groups(trace: Trace) -> dict[str, str]:
    """Why each fixed group is fixed: the reason of the first axis with one on which no other group lies."""
    reasons: dict[str, str] = {}
    for name, axes in trace.spec.axes.items():
        for dim, axis in enumerate(axes):
            groups = set(_groups(axis))
            if len(groups) == 1 and groups <= trace.spec.fixed and (reason := trace.frozen.get(f"{name}[{dim}]")):
                reasons.setdefault(groups.pop(), reason)
    return reasons
