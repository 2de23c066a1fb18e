"""Rules of operations that reshape, join or take apart tensors: view, permute, expand, select, cat and the like."""

from math import prod

from neuralign.symmetry.tracing.axes import (
    Axis,
    cat,
    divide,
    is_frozen,
    narrow,
    ordered_axis,
    product,
    separate_members,
    split_at,
    stacked,
    unflatten,
    unify,
)
from neuralign.symmetry.tracing.call import PART, Axes, Call, Rule, UnsupportedCall
from neuralign.symmetry.tracing.operations.elementwise import broadcast, dims_of


def across_parts(call: Call) -> str:
    """The reason to freeze an axis whose parts, which are permuted separately, do not fit the new shape."""
    return call.reason("reshapes it across the bounds of its parts")


def view(call: Call) -> list[Axes]:
    """aten::view, aten::reshape: dimensions are flattened and unflattened, matched by their sizes from the front."""
    (out,) = call.outputs
    before = [axis for axis in call.stacked_axes(call.first) if axis.size != 1]
    after = [size for size in out.shape if size != 1]
    if out.dtype != call.first.dtype:
        raise UnsupportedCall("reinterprets its bits as another dtype")
    if 0 in out.shape:
        raise UnsupportedCall("has no elements")
    reshaped: list[Axis] = []
    while after:
        sizes, parts = [after.pop(0)], [before.pop(0)]
        while prod(sizes) != prod(part.size for part in parts):
            if prod(sizes) < prod(part.size for part in parts):
                sizes.append(after.pop(0))
            else:
                parts.append(before.pop(0))
        flat = product(parts)
        reshaped += [flat] if len(sizes) == 1 else unflatten(flat, sizes, across_parts(call), indexable=True)
    axes = iter(reshaped)
    return [tuple(Axis(1) if n == 1 else next(axes) for n in out.shape)]


def permute(call: Call) -> list[Axes]:
    """aten::permute, aten::transpose, aten::t: dimensions in another order."""
    axes = call.stacked_axes(call.first)
    if call.name == "permute":
        return [tuple(axes[d] for d in call["dims"])]
    first, second = (0, 1) if call.name == "t" else (call["dim0"], call["dim1"])
    swapped = list(axes)
    if len(axes) > 1:
        swapped[first], swapped[second] = axes[second], axes[first]
    return [tuple(swapped)]


def unsqueeze(call: Call) -> list[Axes]:
    """aten::unsqueeze: a new dimension of size one."""
    axes = list(call.stacked_axes(call.first))
    axes.insert(call["dim"] % (len(axes) + 1), Axis(1))
    return [tuple(axes)]


def squeeze(call: Call) -> list[Axes]:
    """aten::squeeze: without dimensions of size one."""
    axes = call.stacked_axes(call.first)
    dims = dims_of(call, len(axes))
    return [tuple(a for i, a in enumerate(axes) if i not in dims or a.size != 1)]


def expand(call: Call) -> list[Axes]:
    """aten::expand: an expanded axis holds copies, so any permutation of it is the identity."""
    return [broadcast(call, [call.stacked_axes(call.first)], call.outputs[0].shape)]


def repeat(call: Call) -> list[Axes]:
    """aten::repeat: copies laid end to end, so any permutation of the copies is the identity."""
    repeats, axes = call["repeats"], call.stacked_axes(call.first)
    axes = (*[Axis(1)] * (len(repeats) - len(axes)), *axes)
    return [tuple(product([Axis(n), a]) for n, a in zip(repeats, axes, strict=True))]


def select(call: Call) -> list[Axes]:
    """aten::select, aten::unbind: the slices at one index, or at every index, of a dimension, which is removed."""
    axes = call.stacked_axes(call.first)
    dim = call["dim"] % len(axes)
    size = axes[dim].size
    indices = [call["index"] % size] if call.name == "select" else range(size)
    return [_selected(call, axes, dim, index) for index in indices]


def _selected(call: Call, axes: Axes, dim: int, index: int) -> Axes:
    """The axes without dimension `dim`; a stack whose members it numbers becomes the member at `index`."""
    outer = axes[dim].resolve()
    if separate_members(outer) or any(_member(axis, outer, index) is not axis for axis in axes):
        axes = tuple(_member(axis, outer, index) for axis in axes)
    elif not is_frozen(outer):
        reason = call.reason(PART)
        split_at(split_at(outer, index, reason)[1], 1, reason)
    return tuple(a for i, a in enumerate(axes) if i != dim)


def _member(axis: Axis, outer: Axis, index: int) -> Axis:
    """The member at `index` of an axis that is a stack along `outer`; any other axis as it is."""
    stack = axis.as_stack()
    if stack is None or stack.index is None or stack.index.resolve() is not outer:
        return axis
    return stack.parts[index]


def slice_(call: Call) -> list[Axes]:
    """aten::slice: neighbouring positions of a dimension; with a `step` the dimension is frozen."""
    axes = list(call.stacked_axes(call.first))
    dim, size = call["dim"] % len(axes), call.outputs[0].shape[call["dim"]]
    if size == axes[dim].size:
        return [tuple(axes)]
    start, _, _ = slice(call["start"], None).indices(axes[dim].size)
    if call["step"] != 1:
        call.freeze(axes[dim], f"takes one of every {call['step']} positions of it")
    axes[dim] = narrow(axes[dim], start, size, call.reason(PART))
    return [tuple(axes)]


def split(call: Call) -> list[Axes]:
    """aten::split, aten::chunk: neighbouring parts of a dimension."""
    axes, dim = call.stacked_axes(call.first), call["dim"] % call.first.dim()
    start, out = 0, []
    for tensor in call.outputs:
        part = narrow(axes[dim], start, tensor.shape[dim], call.reason(PART))
        out.append((*axes[:dim], part, *axes[dim + 1 :]))
        start += tensor.shape[dim]
    return out


def concatenate(call: Call) -> list[Axes]:
    """aten::cat: parts end to end along one dimension; the others are permuted alike in all parts."""
    parts = [list(call.axes(t)) for t in call["tensors"] if t.shape != (0,)]
    dim = call["dim"] % call.outputs[0].dim()
    shape = [n for i, n in enumerate(call.outputs[0].shape) if i != dim]
    out = broadcast(call, [tuple(a for i, a in enumerate(p) if i != dim) for p in parts], shape)
    return [(*out[:dim], cat(p[dim] for p in parts), *out[dim:])]


def stack(call: Call) -> list[Axes]:
    """aten::stack: a new dimension, each index of which has one of the tensors with its own axes."""
    index = ordered_axis(len(call["tensors"]))
    out = []
    for members in zip(*map(call.axes, call["tensors"]), strict=True):
        are_same = all(member is members[0] for member in members) or all(map(is_frozen, members))
        out.append(members[0] if are_same else stacked(index, members))
    out.insert(call["dim"] % call.outputs[0].dim(), index)
    return [tuple(out)]


def pad(call: Call) -> list[Axes]:
    """aten::constant_pad_nd: copies of a constant before and after; negative padding removes positions."""
    axes, padding = list(call.axes(call.first)), list(call["pad"])
    for dim, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True), 1):
        size = axes[-dim].size + min(before, 0) + min(after, 0)
        axis = narrow(axes[-dim], max(-before, 0), size, call.reason(PART))
        before, after = max(before, 0), max(after, 0)
        if before or after:
            padded = [Axis(before), axis, Axis(after)]
            axis = ordered_axis(axis.size + before + after) if is_frozen(axis) else cat(padded)
        axes[-dim] = axis
    return [tuple(axes)]


def as_strided(call: Call) -> list[Axes]:
    """aten::as_strided: supported where only dimensions of size one get other strides."""
    record, offset = call.records[id(call.first)], call["storage_offset"]
    dims = zip(call["size"], call["stride"], record.axes, record.strides, strict=False)
    if len(call["size"]) != len(record.axes) or any(n != a.size or (n > 1 and s != t) for n, s, a, t in dims):
        raise UnsupportedCall("changes strides")
    if offset not in (None, call.first.storage_offset()):
        raise UnsupportedCall("reads from another place in memory")
    return [record.axes]


def view_as_real(call: Call) -> list[Axes]:
    """aten::view_as_real: a new last dimension of the real and the imaginary part."""
    return [(*call.stacked_axes(call.first), ordered_axis(2))]


def view_as_complex(call: Call) -> list[Axes]:
    """aten::view_as_complex: the last dimension holds the real and the imaginary part."""
    *axes, pair = call.axes(call.first)
    call.freeze(pair, "reads real and imaginary part from it")
    return [tuple(axes)]


def channel_shuffle(call: Call) -> list[Axes]:
    """aten::channel_shuffle: channels (groups, within) in the order (within, groups)."""
    axes = call.axes(call.first)
    outer, inner = divide(axes[1], call["groups"], across_parts(call))
    return [(axes[0], product([inner, outer]), *axes[2:])]


def glu(call: Call) -> list[Axes]:
    """aten::glu: one half of a dimension times the sigmoid of the other half; both are permuted alike."""
    axes = list(call.axes(call.first))
    dim = call["dim"] % len(axes)
    first, second = split_at(axes[dim], axes[dim].size // 2, call.reason("takes halves of it"))
    unify(first, second, call.reason("joins halves of it"))
    axes[dim] = first
    return [tuple(axes)]


SHAPES: dict[str, Rule] = {
    **dict.fromkeys("view _unsafe_view reshape _reshape_alias".split(), view),
    **dict.fromkeys("permute transpose t".split(), permute),
    **dict.fromkeys("select unbind".split(), select),
    **dict.fromkeys("split split_with_sizes chunk unsafe_split unsafe_split_with_sizes".split(), split),
    **{"unsqueeze": unsqueeze, "squeeze": squeeze, "expand": expand, "repeat": repeat, "slice": slice_},
    **{"cat": concatenate, "stack": stack, "constant_pad_nd": pad, "as_strided": as_strided, "glu": glu},
    **{"view_as_real": view_as_real, "view_as_complex": view_as_complex},
    **dict.fromkeys("channel_shuffle native_channel_shuffle".split(), channel_shuffle),
}
