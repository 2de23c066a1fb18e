"""Rules of operations that look values up by position, or write them to positions: index, gather, scatter, embedding.

The axis along which positions are counted is frozen. If the axes of the index tensor are permuted, so are the values
that are looked up.
"""

import torch
from torch import Tensor

from neuralign.symmetry.tracing.axes import Axis, narrow, ordered_axis
from neuralign.symmetry.tracing.call import INDEXED, ORDER, PART, Axes, Call, Rule, UnsupportedCall


def _dim(call: Call, axes: Axes) -> int:
    """The argument `dim`, counted from the front."""
    return call["dim"] % max(len(axes), 1)


def _look_up(call: Call) -> Axes:
    """The axes of `self` at the advanced index `indices`; the dimensions that have an index tensor are frozen.

    Raises UnsupportedCall for masks, and for dimensions that are not neighbours.
    """
    axes, indices = call.axes(call["self"]), call["indices"]
    dims = [i for i, index in enumerate(indices) if index is not None]
    if dims != list(range(dims[0], dims[-1] + 1)) or any(indices[i].dtype in (torch.bool, torch.uint8) for i in dims):
        raise UnsupportedCall("selects by a mask, or along dimensions that are not neighbours")
    for index in (indices[i] for i in dims):
        for axis in call.axes(index):
            call.freeze(axis, "reads positions from it")
    for dim in dims:
        call.freeze(axes[dim], INDEXED)
    shape = torch.broadcast_shapes(*(indices[i].shape for i in dims))
    return (*axes[: dims[0]], *map(ordered_axis, shape), *axes[dims[-1] + 1 :])


def index(call: Call) -> list[Axes]:
    """aten::index: advanced indexing along neighbouring dimensions; the other axes are those of the input."""
    return [_look_up(call)]


def index_put(call: Call) -> list[Axes]:
    """aten::index_put: values are written or added at an advanced index; they match the result of aten::index there."""
    call.unify_broadcast(_look_up(call), call.axes(call["values"]))
    return [call.axes(call["self"])]


def embedding(call: Call) -> list[Axes]:
    """aten::embedding: rows of a matrix are looked up; its columns are the last axis of the result."""
    rows, columns = call.axes(call["weight"])
    call.freeze(rows, INDEXED)
    return [(*call.axes(call["indices"]), columns)]


def index_select(call: Call) -> list[Axes]:
    """aten::index_select: one dimension is replaced by that of the index."""
    axes, index = list(call.axes(call["self"])), call.axes(call["index"])
    if not axes:
        return [()]
    dim = _dim(call, tuple(axes))
    call.freeze(axes[dim], INDEXED)
    axes[dim] = index[0] if index else Axis(1)
    return [tuple(axes)]


def index_add(call: Call) -> list[Axes]:
    """aten::index_add, aten::index_reduce, aten::index_copy: rows are added or written to positions of one dimension.

    The order of the rows does not matter if the index is permuted alike. For index_copy it does: of several rows
    written to one position the last one stays.
    """
    axes, source, index = call.axes(call["self"]), call.axes(call["source"]), call.axes(call["index"])
    if len(axes) != len(source) or not index:
        raise UnsupportedCall("joins tensors of different ranks")
    dim = _dim(call, axes)
    for i, (axis, source_axis) in enumerate(zip(axes, source, strict=True)):
        call.unify(index[0] if i == dim else axis, source_axis)
    call.freeze(axes[dim], INDEXED)
    if call.name == "index_copy":
        call.freeze(index[0], ORDER)
    return [axes]


def index_fill(call: Call) -> list[Axes]:
    """aten::index_fill: one value is written to positions of one dimension."""
    axes = call.axes(call["self"])
    if axes:
        call.freeze(axes[_dim(call, axes)], INDEXED)
    return [axes]


def _take_first(call: Call, axis: Axis, size: int) -> Axis:
    """The axis of the first `size` positions, with which a smaller index tensor is matched."""
    return axis if axis.size == size else narrow(axis, 0, size, call.reason(PART))


def gather(call: Call) -> list[Axes]:
    """aten::gather: values are looked up along one dimension; on the others the index matches the input."""
    axes, index = call.axes(call["self"]), call.axes(call["index"])
    if len(axes) != len(index):
        raise UnsupportedCall("joins tensors of different ranks")
    for dim, (axis, index_axis) in enumerate(zip(axes, index, strict=True)):
        if dim == _dim(call, axes):
            call.freeze(axis, INDEXED)
        else:
            call.unify(_take_first(call, axis, index_axis.size), index_axis)
    return [index]


def scatter(call: Call) -> list[Axes]:
    """aten::scatter, aten::scatter_add, aten::scatter_reduce: values are written or added along one dimension.

    On the others the index matches the input. Along that dimension the order of the values does not matter if the index
    is permuted alike. For scatter it does: of several values written to one position the last one stays.
    """
    axes, index = call.axes(call["self"]), call.axes(call["index"])
    source = call.axes(call["src"]) if isinstance(call.arguments.get("src"), Tensor) else index
    if not len(axes) == len(index) == len(source):
        raise UnsupportedCall("joins tensors of different ranks")
    for dim, (axis, index_axis, source_axis) in enumerate(zip(axes, index, source, strict=True)):
        call.unify(_take_first(call, source_axis, index_axis.size), index_axis)
        if dim != _dim(call, axes):
            call.unify(_take_first(call, axis, index_axis.size), index_axis)
            continue
        call.freeze(axis, INDEXED)
        if call.name == "scatter":
            call.freeze(index_axis, ORDER)
    return [axes]


def isin(call: Call) -> list[Axes]:
    """aten::isin: whether each element is one of the test elements, whose order does not matter."""
    elements = call.arguments.get("elements")
    return [call.axes(elements) if isinstance(elements, Tensor) else () for _ in call.outputs]


LOOKUPS: dict[str, Rule] = {
    **dict.fromkeys("index_add index_reduce index_copy".split(), index_add),
    **dict.fromkeys("scatter scatter_add scatter_reduce".split(), scatter),
    **dict.fromkeys("index_put _index_put_impl _unsafe_index_put".split(), index_put),
    **dict.fromkeys("index _unsafe_index".split(), index),
    **{"embedding": embedding, "index_select": index_select, "index_fill": index_fill, "gather": gather, "isin": isin},
}
