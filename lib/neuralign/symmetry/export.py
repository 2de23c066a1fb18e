"""A network's permutation symmetry as plain data, for programs that have neither this library nor PyTorch."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from neuralign.symmetry.permutations import Block, Blocks, extent, fingerprint
from neuralign.symmetry.tracing.trace import Trace

# Reasons of axes for which the trace has none, because no group lies on them.
NO_UNITS = "its positions are those of a kernel, of tokens or of constants, not units"
UNREACHED = "no run used the tensor"
ONE_POSITION = "it has one position only"
PlainBlock = list[Any]  # factors, outer to inner: a free group's name, a number of fixed positions, or blocks


def export(trace: Trace) -> dict[str, Any]:
    """The free groups of a traced network, and the groups on each axis of each of its tensors, as JSON types.

    Returns a dictionary:
        groups: {name: size} of those that may be permuted, in any way and independently of each other.
        tensors: {name: [{size, blocks, frozen} for each axis]} of all parameters and buffers. `blocks`, laid end to
            end, fill the axis. A block is a product of factors, outer to inner: the name of a free group, a number of
            positions that stay where they are, or a list of blocks. `frozen`: why not all units on the axis may be
            permuted; None where all may.
        symmetry: the `fingerprint` of the symmetry (sha256), which files of its permutations have in their metadata.
        modes: {"evaluation" or "training": "", or the error that kept the network from running in it}.
        unreached: the network's tensors that no run used.
    """
    network, spec = trace.network.network, trace.spec
    tensors = dict(
        chain(network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    )
    reasons = _reasons_of_groups(trace)

    def describe(name: str, dim: int, size: int) -> dict[str, Any]:
        all_blocks = spec.axes[name][dim] if name in spec.axes else ()
        blocks = _plain_blocks(trace, all_blocks) if all_blocks else [[size]]
        frozen = trace.frozen.get(f"{name}[{dim}]")
        if frozen is None and not any(groups_on(blocks)):
            fixed = next((reasons[group] for group in groups_on(all_blocks) if group in reasons), NO_UNITS)
            frozen = UNREACHED if name in trace.unreached else ONE_POSITION if size == 1 else fixed
        return {"size": size, "blocks": blocks, "frozen": frozen}

    return {
        "groups": {group: spec.sizes[group] for group in spec.free},
        "tensors": {
            name: [describe(name, dim, size) for dim, size in enumerate(tensor.shape)]
            for name, tensor in tensors.items()
        },
        "symmetry": fingerprint(spec),
        "modes": dict(trace.modes),
        "unreached": list(trace.unreached),
    }


def rows(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What `export` returned, as rows of a table, one for each axis and free group on it.

    Columns: tensor; axis, counted from 0; size; group, "" if the axis has no free one; units, the size of the group;
    blocks of the axis as JSON; frozen.
    """
    for tensor, axes in data["tensors"].items():
        for i, axis in enumerate(axes):
            for group in dict.fromkeys(groups_on(axis["blocks"])) or [""]:
                yield {
                    "tensor": tensor,
                    "axis": i,
                    "size": axis["size"],
                    "group": group,
                    "units": data["groups"].get(group, ""),
                    "blocks": json.dumps(axis["blocks"]),
                    "frozen": axis["frozen"] or "",
                }


def _plain_blocks(trace: Trace, blocks: Blocks) -> list[PlainBlock]:
    """The blocks of an axis as lists; those that no free group moves become numbers, and adjacent numbers are added."""
    plain: list[PlainBlock] = []
    for block in blocks:
        factors = _plain_factors(trace, block)
        if plain and _is_fixed(plain[-1]) and _is_fixed(factors):
            plain[-1] = [plain[-1][0] + factors[0]]
        else:
            plain.append(factors)
    return plain


def _plain_factors(trace: Trace, block: Block) -> PlainBlock:
    """The factors of a block; those that no free group moves become numbers, and adjacent numbers are multiplied."""
    factors: PlainBlock = []
    for factor in block:
        if isinstance(factor, str) and factor not in trace.spec.fixed:
            factors.append(factor)
        elif isinstance(factor, tuple) and any(groups_on(inner := _plain_blocks(trace, factor))):
            factors.append(inner)
        elif factors and isinstance(factors[-1], int):
            factors[-1] *= extent(trace.spec.sizes, factor)
        else:
            factors.append(extent(trace.spec.sizes, factor))
    return [factor for factor in factors if factor != 1] or [1]


def _is_fixed(block: PlainBlock) -> bool:
    """Whether no free group lies on a block."""
    return not any(groups_on([block]))


def groups_on(blocks: Any) -> Iterator[str]:
    """The names of the groups in `Blocks` or in plain blocks."""
    for factor in chain(*blocks):
        if isinstance(factor, str):
            yield factor
        elif not isinstance(factor, int):
            yield from groups_on(factor)


def _reasons_of_groups(trace: Trace) -> dict[str, str]:
    """{fixed group: why it is fixed}, the reason of the first axis on which it lies alone."""
    reasons: dict[str, str] = {}
    for name, axes in trace.spec.axes.items():
        for dim, blocks in enumerate(axes):
            groups = set(groups_on(blocks))
            if len(groups) == 1 and groups <= trace.spec.fixed and (reason := trace.frozen.get(f"{name}[{dim}]")):
                reasons.setdefault(groups.pop(), reason)
    return reasons
