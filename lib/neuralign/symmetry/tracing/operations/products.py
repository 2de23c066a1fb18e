"""What operations with weights, norms and attention do to the axes of their operands."""

from torch import Tensor

from neuralign.symmetry.tracing.axes import POSITIONS, Axis, cut, divide, factor, freeze, leaves, positions, product
from neuralign.symmetry.tracing.recording import Axes, Call, Rule

ATTENTION = "attention"  # the mark of an axis of a product of two activations
UNIT = "unit"  # the mark of an axis that a layer puts out
OPERANDS = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "mv": ("self", "vec"), "dot": ("self", "tensor")}
OPERANDS |= {"vdot": ("self", "other")}
OPERANDS |= {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}


def _mark(call: Call, *tensors: Tensor) -> None:
    """Mark all axes of a product of activations, neither of which is a weight."""
    if all(map(call.depends, tensors)):
        for tensor in tensors:
            for axis in call.axes(tensor):
                for leaf in leaves(axis):
                    leaf.marks.add(ATTENTION)


def _out(axis: Axis) -> Axis:
    for leaf in leaves(axis):
        leaf.marks.add(UNIT)
    return axis


def multiplied(call: Call) -> list[Axes]:
    """A product of matrices or vectors, perhaps with something added: the last axis of one meets the other's first."""
    first, second = (call[name] for name in OPERANDS[call.name])
    a, b = call.axes(first), call.axes(second)
    _mark(call, first, second)
    for one, other in zip(a[:-2], b[:-2], strict=True):
        call.tie(one, other)
    call.tie(a[-1], b[-2] if len(b) > 1 else b[0])
    out = (*a[:-1], *([_out(b[-1])] if len(b) > 1 else []))
    if call.name.startswith(("add", "badd")):
        for one, other in zip(reversed(call.axes(call["self"])), reversed(out), strict=False):
            if one.size != 1:
                call.tie(other, one)
    return [out]


def linear(call: Call) -> list[Axes]:
    """Rows of a matrix times the last axis."""
    *rest, inner = call.axes(call["input"])
    outputs, inputs = call.axes(call["weight"])
    call.tie(inner, inputs)
    if call["bias"] is not None:
        call.tie(outputs, call.axes(call["bias"])[0])
    return [(*rest, _out(outputs))]


def convolved(call: Call) -> list[Axes]:
    """A convolution (n, c, ...): in blocks of channels where it is grouped, block by block and alike within each."""
    blocks, source, weight = call["groups"], call.axes(call["input"]), call.axes(call["weight"])
    windows = zip(weight[2:], call["stride"], call["padding"], call["output_padding"], strict=True)
    pointwise = [(window.size, stride, pad, more) == (1, 1, 0, 0) for window, stride, pad, more in windows]
    space = list(map(positions, call.outputs[0].shape[2:]))
    for i, axis in enumerate(source[2:]):
        if pointwise[i]:
            space[i] = axis
        else:
            freeze(axis, f"{call.why} reads it as space")
    for axis in weight[2:]:
        freeze(axis, POSITIONS)
    channels, rows = source[1], weight[0]
    if blocks > 1:
        why = f"{call.why} has {blocks} blocks of channels that cut across its parts"
        outer, inner = factor(channels, (blocks, channels.size // blocks), why)
        wide, narrow = factor(rows, (blocks, rows.size // blocks), why)
        call.tie(outer, wide)
    else:
        inner, wide, narrow = channels, Axis(1), rows
    if call["transposed"]:
        call.tie(inner, narrow)
        out = product([wide, _out(weight[1])])
    else:
        call.tie(inner, weight[1])
        out = rows
    if call["bias"] is not None:
        call.tie(out, call.axes(call["bias"])[0])
    return [(source[0], _out(out), *space)]


def normalised(call: Call) -> list[Axes]:
    """Batch norm: one number per channel of everything that is learned or remembered."""
    axes = call.axes(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (tensor := call.arguments.get(name)) is not None:
            call.tie(axes[1], call.axes(tensor)[0])
    return [axes] + [(axes[1],) if t.shape == (axes[1].size,) else tuple(map(positions, t.shape)) for t in _rest(call)]


def layer_normalised(call: Call) -> list[Axes]:
    """Layer norm and its kin: over the last axes, whatever their order."""
    axes, rank = call.axes(call["input"]), len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if (tensor := call.arguments.get(name)) is not None:
            for one, other in zip(axes[-rank:], call.axes(tensor), strict=True):
                call.tie(one, other)
    kept = (*axes[:-rank], *[Axis(1)] * rank)
    return [axes] + [kept if t.dim() == len(axes) else tuple(map(positions, t.shape)) for t in _rest(call)]


def group_normalised(call: Call) -> list[Axes]:
    """Group norm: block by block, and alike within each block."""
    axes = call.axes(call["input"])
    blocks = call["group"]
    outer = Axis(1)
    if 1 < blocks < axes[1].size:
        outer, _ = divide(axes[1], blocks, f"{call.why} has {blocks} blocks of channels that cut across its parts")
    elif blocks > 1:
        outer = axes[1]
    for name in ("weight", "bias"):
        if (tensor := call.arguments.get(name)) is not None:
            call.tie(axes[1], call.axes(tensor)[0])
    return [axes] + [(axes[0], outer) for _ in _rest(call)]


def attended(call: Call) -> list[Axes]:
    """Attention (..., tokens, channels): query and key share channels, key and value tokens, all three the heads."""
    query, key, value = (call.axes(call[n]) for n in ("query", "key", "value"))
    _mark(call, call["query"], call["key"])
    _mark(call, call["query"], call["value"])
    for other in (key, value):
        for one, two in zip(query[:-2], other[:-2], strict=True):
            call.tie(_shared(call, one, two.size), two)
    call.tie(query[-1], key[-1])
    call.tie(key[-2], value[-2])
    mask = call.arguments.get("attn_mask", call.arguments.get("attn_bias"))
    if mask is not None:
        for one, two in zip(reversed((*query[:-1], key[-2])), reversed(call.axes(mask)), strict=False):
            if two.size != 1:
                call.tie(one, two)
    if call["is_causal"]:
        for axis in (query[-2], key[-2]):
            freeze(axis, f"{call.why} reads its order")
    rest = [query[:-1] if t.shape == call["query"].shape[:-1] else tuple(map(positions, t.shape)) for t in _rest(call)]
    return [(*query[:-1], value[-1]), *rest]


def stepped(call: Call) -> list[Axes]:
    """aten::_thnn_fused_lstm_cell, aten::_thnn_fused_gru_cell: the gates of a unit lie one block after the other.

    Every block is permuted as the units are; so are the old state and the new.
    """
    ins, hidden, state = (call.axes(tensor) for tensor in call.tensors[:3])
    gates = [ins[-1], hidden[-1], *(call.axes(bias)[0] for bias in call.tensors[3:])]
    for axis in gates:
        rest = axis
        for _ in range(axis.size // state[-1].size):
            gate, rest = cut(rest, state[-1].size, f"{call.why} takes a part of it")
            call.tie(state[-1], gate)
    for axes in (ins, hidden):
        call.tie(state[0], axes[0])
    return [state if t.shape[-1] == state[-1].size else tuple(map(positions, t.shape)) for t in call.outputs]


def _shared(call: Call, heads: Axis, count: int) -> Axis:
    """The heads of a query in so many blocks, where each block shares one key: the axis of the blocks."""
    if heads.size == count or heads.size % count:
        return heads
    return divide(heads, count, f"{call.why} has {count} keys that are shared across its parts")[0]


def trilinear(call: Call) -> list[Axes]:
    """aten::_trilinear: a product of three tensors summed over some dimensions, as of a bilinear layer."""
    sides = []
    for i in "123":
        axes = list(call.axes(call[f"i{i}"]))
        for dim in sorted(call[f"expand{i}"]):
            axes.insert(dim, Axis(1))
        sides.append(axes)
    out = []
    for dim, met in enumerate(zip(*sides, strict=True)):
        wide = [axis for axis in met if axis.size != 1]
        for other in wide[1:]:
            call.tie(wide[0], other)
        if dim not in call["sumdim"]:
            out.append(_out((wide or [met[1]])[0]))
    return [tuple(out)]


def distances(call: Call) -> list[Axes]:
    """aten::_cdist_forward: between rows of one matrix and of another, over their columns."""
    first, second = call.axes(call["x1"]), call.axes(call["x2"])
    batch = [(one, other) for one, other in zip(first[:-2], second[:-2], strict=True)]
    for one, other in batch:
        if 1 not in (one.size, other.size):
            call.tie(one, other)
    call.tie(first[-1], second[-1])
    return [(*(other if one.size == 1 else one for one, other in batch), first[-2], second[-2])]


def weight_normalised(call: Call) -> list[Axes]:
    """A weight of a direction and of a length for every index of one axis."""
    direction, length, dim = call.axes(call["v"]), call.axes(call["g"]), call["dim"]
    call.tie(direction[dim], length[dim])
    return [direction, *[length for _ in _rest(call)]]


def _rest(call: Call) -> tuple[Tensor, ...]:
    return call.outputs[1:]


NORMS = "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update"
SCALED = "flash_attention_for_cpu flash_attention efficient_attention cudnn_attention fused_attention_overrideable"
PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(OPERANDS, multiplied),
    **dict.fromkeys(NORMS.split(), normalised),
    **dict.fromkeys("native_layer_norm _fused_rms_norm".split(), layer_normalised),
    **dict.fromkeys((f"_scaled_dot_product_{kind}" for kind in SCALED.split()), attended),
    **{"linear": linear, "convolution": convolved, "native_group_norm": group_normalised},
    **dict.fromkeys(("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"), stepped),
    **{"_weight_norm_interface": weight_normalised, "_trilinear": trilinear, "_cdist_forward": distances},
}
