"""What operations do to the axes of their operands that look numbers up, or put them, by the number of their place.

An axis that places are counted on stays in order. The axes of the places themselves are as free as what is looked up.
"""

import torch
from torch import Tensor

from neuralign.symmetry.tracing.axes import Axis, freeze, part, positions
from neuralign.symmetry.tracing.recording import Axes, Call, Misfit, Rule


def _along(axes: Axes, dim: int) -> int:
    """The place of a dimension, counted from the front."""
    return dim % max(len(axes), 1)


def _count(call: Call, axis: Axis) -> Axis:
    """Freeze an axis that places are counted on."""
    freeze(axis, f"{call.why} looks places up on it by number")
    return axis


def _indexed_dims(call: Call) -> tuple[range, list[Axis]]:
    """The neighbouring dimensions that an index of numbers is given for, now frozen, and the axes it has for them."""
    axes, indices = call.axes(call["self"]), call["indices"]
    dims = [i for i, index in enumerate(indices) if index is not None]
    if dims != list(range(dims[0], dims[-1] + 1)) or any(indices[i].dtype in (torch.bool, torch.uint8) for i in dims):
        raise Misfit("looks up places that are not known beforehand")
    for tensor in (indices[i] for i in dims):
        for axis in call.axes(tensor):
            freeze(axis, f"{call.why} reads it as places")
    for dim in dims:
        _count(call, axes[dim])
    found = torch.broadcast_shapes(*(indices[i].shape for i in dims))
    return range(dims[0], dims[-1] + 1), list(map(positions, found))


def indexed(call: Call) -> list[Axes]:
    """aten::index: rows looked up by number on some neighbouring dimensions."""
    axes = call.axes(call["self"])
    dims, found = _indexed_dims(call)
    return [(*axes[: dims.start], *found, *axes[dims.stop :])]


def index_put(call: Call) -> list[Axes]:
    """aten::index_put: rows put, or added, to places given by number on some neighbouring dimensions."""
    axes = call.axes(call["self"])
    dims, found = _indexed_dims(call)
    rows = (*axes[: dims.start], *found, *axes[dims.stop :])
    for row, value in zip(reversed(rows), reversed(call.axes(call["values"])), strict=False):
        if value.size != 1:
            call.tie(row, value)
    return [axes]


def embedded(call: Call) -> list[Axes]:
    """aten::embedding: rows of a matrix looked up by number."""
    rows, units = call.axes(call["weight"])
    freeze(rows, f"{call.why} looks rows up by number")
    return [(*call.axes(call["indices"]), units)]


def index_selected(call: Call) -> list[Axes]:
    """aten::index_select: places of one dimension, in the order of the index."""
    axes, index = list(call.axes(call["self"])), call.axes(call["index"])
    if not axes:
        return [()]
    dim = _along(tuple(axes), call["dim"])
    _count(call, axes[dim])
    axes[dim] = index[0] if index else Axis(1)
    return [tuple(axes)]


def index_added(call: Call) -> list[Axes]:
    """aten::index_add, aten::index_reduce, aten::index_copy: rows added, or put, to places of one dimension.

    Rows and their places may be listed in any order, but where the last of several for one place counts.
    """
    axes, source, index = call.axes(call["self"]), call.axes(call["source"]), call.axes(call["index"])
    if len(axes) != len(source) or not index:
        raise Misfit("joins tensors of different ranks")
    dim = _along(axes, call["dim"])
    for place, (one, other) in enumerate(zip(axes, source, strict=True)):
        call.tie(index[0] if place == dim else one, other)
    _count(call, axes[dim])
    if call.name == "index_copy":
        freeze(index[0], f"{call.why} reads its order")
    return [axes]


def index_filled(call: Call) -> list[Axes]:
    """aten::index_fill: one value at places of one dimension."""
    axes = call.axes(call["self"])
    if axes:
        _count(call, axes[_along(axes, call["dim"])])
    return [axes]


def _met(call: Call, larger: Axis, size: int) -> Axis:
    """The first places of an axis, which are those that a smaller tensor meets."""
    return larger if larger.size == size else part(larger, 0, size, call.why)


def gathered(call: Call) -> list[Axes]:
    """aten::gather: numbers looked up on one dimension, separately at each place of the others."""
    axes, index = call.axes(call["self"]), call.axes(call["index"])
    if len(axes) != len(index):
        raise Misfit("joins tensors of different ranks")
    for dim, (axis, places) in enumerate(zip(axes, index, strict=True)):
        if dim == _along(axes, call["dim"]):
            _count(call, axis)
        else:
            call.tie(_met(call, axis, places.size), places)
    return [index]


def scattered(call: Call) -> list[Axes]:
    """aten::scatter, aten::scatter_add, aten::scatter_reduce: numbers put, or added, to places of one dimension.

    Separately at each place of the others. Along that dimension numbers and their places may be listed in any order,
    but where the last of several for one place counts.
    """
    axes, index = call.axes(call["self"]), call.axes(call["index"])
    source = call.axes(call["src"]) if isinstance(call.arguments.get("src"), Tensor) else index
    if not len(axes) == len(index) == len(source):
        raise Misfit("joins tensors of different ranks")
    for dim, (axis, places, numbers) in enumerate(zip(axes, index, source, strict=True)):
        call.tie(_met(call, numbers, places.size), places)
        if dim != _along(axes, call["dim"]):
            call.tie(_met(call, axis, places.size), places)
            continue
        _count(call, axis)
        if call.name == "scatter":
            freeze(places, f"{call.why} reads its order")
    return [axes]


def contained(call: Call) -> list[Axes]:
    """aten::isin: whether each number is among others, whatever the order of those."""
    elements = call.arguments.get("elements")
    return [call.axes(elements) if isinstance(elements, Tensor) else () for _ in call.outputs]


LOOKUPS: dict[str, Rule] = {
    **dict.fromkeys("index_add index_reduce index_copy".split(), index_added),
    **dict.fromkeys("scatter scatter_add scatter_reduce".split(), scattered),
    **dict.fromkeys("index_put _index_put_impl _unsafe_index_put".split(), index_put),
    **dict.fromkeys("index _unsafe_index".split(), indexed),
    **{"embedding": embedded, "index_select": index_selected, "index_fill": index_filled, "gather": gathered},
    "isin": contained,
}
