"""Rules of operations with weights: products of matrices, convolutions, norms, attention and recurrent cells."""

from torch import Tensor

from neuralign.symmetry.tracing.axes import (
    ORDER_IS_DATA,
    Axis,
    divide,
    freeze,
    leaves,
    ordered_axis,
    product,
    split_at,
    unflatten,
)
from neuralign.symmetry.tracing.call import ORDER, PART, SPACE, Axes, Call, Rule

ATTENTION = "attention"  # the mark of the axes of activations that are multiplied with each other as matrices
UNIT = "unit"  # the mark of the output axis of a layer with weights, which is a group even if its size is one
OPERANDS = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "mv": ("self", "vec"), "dot": ("self", "tensor")}
OPERANDS |= {"vdot": ("self", "other")}
OPERANDS |= {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}


def _mark_attention(call: Call, *operands: Tensor) -> None:
    """Mark all axes of these operands of a product with ATTENTION if every operand depends on the input."""
    if all(map(call.depends_on_input, operands)):
        for operand in operands:
            for axis in call.axes(operand):
                for leaf in leaves(axis):
                    leaf.marks.add(ATTENTION)


def _mark_unit(axis: Axis) -> Axis:
    """The axis, marked as UNIT."""
    for leaf in leaves(axis):
        leaf.marks.add(UNIT)
    return axis


def _secondary(call: Call) -> tuple[Tensor, ...]:
    """The results after the first, such as statistics for the backward pass."""
    return call.outputs[1:]


def _across_groups(call: Call, count: int) -> str:
    """The reason to freeze an axis of channels whose parts, which are permuted separately, do not fit the groups."""
    return call.reason(f"has {count} groups of channels, whose bounds are not those of its parts")


def _ordered_axes(tensor: Tensor) -> Axes:
    """New axes of a result whose order is data."""
    return tuple(map(ordered_axis, tensor.shape))


def matmul(call: Call) -> list[Axes]:
    """aten::mm, aten::bmm, aten::mv, aten::dot, aten::addmm and the like: the contracted axes are permuted alike."""
    first, second = (call[name] for name in OPERANDS[call.name])
    a, b = call.axes(first), call.axes(second)
    _mark_attention(call, first, second)
    for batch, other_batch in zip(a[:-2], b[:-2], strict=True):
        call.unify(batch, other_batch)
    call.unify(a[-1], b[-2] if len(b) > 1 else b[0])
    out = (*a[:-1], *([_mark_unit(b[-1])] if len(b) > 1 else []))
    if call.name.startswith(("add", "badd")):
        call.unify_broadcast(out, call.axes(call["self"]))
    return [out]


def linear(call: Call) -> list[Axes]:
    """aten::linear: the columns of the weight are permuted as the input's last axis, its rows are the output's."""
    *batch, inner = call.axes(call["input"])
    rows, columns = call.axes(call["weight"])
    call.unify(inner, columns)
    if call["bias"] is not None:
        call.unify(rows, call.axes(call["bias"])[0])
    return [(*batch, _mark_unit(rows))]


def convolution(call: Call) -> list[Axes]:
    """aten::convolution (n, c, ...): channels as in a linear layer; spatial axes are frozen.

    A spatial axis along which the kernel is pointwise (one position, no stride, no padding) is passed on instead. With
    several groups of channels, the groups may be permuted, and the channels within groups, alike in each group.
    """
    groups, source, weight = call["groups"], call.axes(call["input"]), call.axes(call["weight"])
    options = zip(weight[2:], call["stride"], call["padding"], call["output_padding"], strict=True)
    pointwise = [(window.size, *others) == (1, 1, 0, 0) for window, *others in options]
    space = list(map(ordered_axis, call.outputs[0].shape[2:]))
    for i, axis in enumerate(source[2:]):
        if pointwise[i]:
            space[i] = axis
        else:
            call.freeze(axis, SPACE)
    for axis in weight[2:]:
        freeze(axis, ORDER_IS_DATA)
    channels, rows = source[1], weight[0]
    if groups > 1:
        reason = _across_groups(call, groups)
        outer, inner = unflatten(channels, (groups, channels.size // groups), reason)
        outer_rows, inner_rows = unflatten(rows, (groups, rows.size // groups), reason)
        call.unify(outer, outer_rows)
    else:
        inner, outer_rows, inner_rows = channels, Axis(1), rows
    if call["transposed"]:
        call.unify(inner, inner_rows)
        out = product([outer_rows, _mark_unit(weight[1])])
    else:
        call.unify(inner, weight[1])
        out = rows
    if call["bias"] is not None:
        call.unify(out, call.axes(call["bias"])[0])
    return [(source[0], _mark_unit(out), *space)]


def batch_norm(call: Call) -> list[Axes]:
    """aten::native_batch_norm and the like (n, c, ...): weights and running statistics are permuted as channels."""
    axes = call.axes(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (tensor := call.arguments.get(name)) is not None:
            call.unify(axes[1], call.axes(tensor)[0])
    statistics = [(axes[1],) if t.shape == (axes[1].size,) else _ordered_axes(t) for t in _secondary(call)]
    return [axes, *statistics]


def layer_norm(call: Call) -> list[Axes]:
    """aten::native_layer_norm, aten::_fused_rms_norm: statistics of the last axes do not depend on their order."""
    axes, rank = call.axes(call["input"]), len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if (tensor := call.arguments.get(name)) is not None:
            for axis, scale in zip(axes[-rank:], call.axes(tensor), strict=True):
                call.unify(axis, scale)
    reduced = (*axes[:-rank], *[Axis(1)] * rank)
    return [axes, *(reduced if t.dim() == len(axes) else _ordered_axes(t) for t in _secondary(call))]


def group_norm(call: Call) -> list[Axes]:
    """aten::native_group_norm (n, c, ...): groups may be permuted, and channels within groups, alike in each group."""
    axes = call.axes(call["input"])
    groups = call["group"]
    outer = Axis(1)
    if 1 < groups < axes[1].size:
        outer, _ = divide(axes[1], groups, _across_groups(call, groups))
    elif groups > 1:
        outer = axes[1]
    for name in ("weight", "bias"):
        if (tensor := call.arguments.get(name)) is not None:
            call.unify(axes[1], call.axes(tensor)[0])
    return [axes] + [(axes[0], outer) for _ in _secondary(call)]


def attention(call: Call) -> list[Axes]:
    """aten::_scaled_dot_product_* (..., tokens, channels): softmax(query key^T + mask) value.

    Query and key have the same channels, key and value the same tokens, and all three have the same heads.
    """
    query, key, value = (call.axes(call[n]) for n in ("query", "key", "value"))
    _mark_attention(call, call["query"], call["key"])
    _mark_attention(call, call["query"], call["value"])
    for other in (key, value):
        for axis, other_axis in zip(query[:-2], other[:-2], strict=True):
            call.unify(_key_heads(call, axis, other_axis.size), other_axis)
    call.unify(query[-1], key[-1])
    call.unify(key[-2], value[-2])
    mask = call.arguments.get("attn_mask", call.arguments.get("attn_bias"))
    if mask is not None:
        call.unify_broadcast((*query[:-1], key[-2]), call.axes(mask))
    if call["is_causal"]:
        for axis in (query[-2], key[-2]):
            call.freeze(axis, ORDER)
    per_query = call["query"].shape[:-1]
    rest = [query[:-1] if t.shape == per_query else _ordered_axes(t) for t in _secondary(call)]
    return [(*query[:-1], value[-1]), *rest]


def _key_heads(call: Call, heads: Axis, count: int) -> Axis:
    """The axis of `count` key heads to which an axis of query heads belongs (grouped-query attention)."""
    if heads.size == count or heads.size % count:
        return heads
    return divide(heads, count, call.reason(f"divides it among {count} key heads across the bounds of its parts"))[0]


def recurrent_cell(call: Call) -> list[Axes]:
    """aten::_thnn_fused_lstm_cell, aten::_thnn_fused_gru_cell: each block of gates is permuted as the hidden units.

    The gates lie in blocks: the input gates of all units, the forget gates of all units, and so on.
    """
    inputs, hidden, state = (call.axes(tensor) for tensor in call.tensors[:3])
    gates = [inputs[-1], hidden[-1], *(call.axes(bias)[0] for bias in call.tensors[3:])]
    for axis in gates:
        rest = axis
        for _ in range(axis.size // state[-1].size):
            gate, rest = split_at(rest, state[-1].size, call.reason(PART))
            call.unify(state[-1], gate)
    for axes in (inputs, hidden):
        call.unify(state[0], axes[0])
    return [state if t.shape[-1] == state[-1].size else _ordered_axes(t) for t in call.outputs]


def trilinear(call: Call) -> list[Axes]:
    """aten::_trilinear, as of nn.Bilinear: the elementwise product of three tensors, summed over some dimensions."""
    operands = []
    for i in "123":
        axes = list(call.axes(call[f"i{i}"]))
        for dim in sorted(call[f"expand{i}"]):
            axes.insert(dim, Axis(1))
        operands.append(axes)
    out = []
    for dim, matched in enumerate(zip(*operands, strict=True)):
        wide = [axis for axis in matched if axis.size != 1]
        for other in wide[1:]:
            call.unify(wide[0], other)
        if dim not in call["sumdim"]:
            out.append(_mark_unit((wide or [matched[1]])[0]))  # of the second operand, the weight, if all have size 1
    return [tuple(out)]


def cdist(call: Call) -> list[Axes]:
    """aten::_cdist_forward: distances between the rows of two matrices, whose columns are permuted alike."""
    first, second = call.axes(call["x1"]), call.axes(call["x2"])
    batch = list(zip(first[:-2], second[:-2], strict=True))
    for axis, other in batch:
        if 1 not in (axis.size, other.size):
            call.unify(axis, other)
    call.unify(first[-1], second[-1])
    return [(*(other if axis.size == 1 else axis for axis, other in batch), first[-2], second[-2])]


def weight_norm(call: Call) -> list[Axes]:
    """aten::_weight_norm_interface: the weight g * v / |v|, with one length g for each position of dimension `dim`."""
    direction, length, dim = call.axes(call["v"]), call.axes(call["g"]), call["dim"]
    call.unify(direction[dim], length[dim])
    return [direction, *[length for _ in _secondary(call)]]


BATCH_NORMS = "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update"
ATTENTIONS = "flash_attention_for_cpu flash_attention efficient_attention cudnn_attention fused_attention_overrideable"
PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(OPERANDS, matmul),
    **dict.fromkeys(BATCH_NORMS.split(), batch_norm),
    **dict.fromkeys("native_layer_norm _fused_rms_norm".split(), layer_norm),
    **dict.fromkeys((f"_scaled_dot_product_{kind}" for kind in ATTENTIONS.split()), attention),
    **{"linear": linear, "convolution": convolution, "native_group_norm": group_norm},
    **dict.fromkeys(("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"), recurrent_cell),
    **{"_weight_norm_interface": weight_norm, "_trilinear": trilinear, "_cdist_forward": cdist},
}
