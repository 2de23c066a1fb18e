"""What each operation does to the axes of its operands: shapes, sums, reductions, windows over space.

A rule joins what must be permuted alike, freezes what the operation reads by position, and gives the axes of the
results. It is right if permuting operands permutes results as it says.
"""

import re
from collections.abc import Sequence
from math import prod

from neuralign.symmetry.tracing.axes import (
    Axis,
    cat,
    cut,
    divide,
    factor,
    freeze,
    is_frozen,
    part,
    pick,
    positions,
    product,
    stacked,
    unify,
)
from neuralign.symmetry.tracing.operations.lookups import LOOKUPS
from neuralign.symmetry.tracing.operations.products import PRODUCTS
from neuralign.symmetry.tracing.recording import Axes, Call, Misfit, Rule


def pointwise(call: Call) -> list[Axes]:
    """Number by number, with broadcasting: axes of the same place are permuted alike."""
    operands = [call.raw(t) for t in call.tensors]
    return [_broadcast(operands, t.shape, call.why) for t in call.outputs]


def _broadcast(operands: Sequence[Axes], shape: Sequence[int], why: str) -> Axes:
    out = []
    for place, size in enumerate(reversed(shape), 1):
        found = [axes[-place] for axes in operands if len(axes) >= place and axes[-place].size == size]
        for other in found[1:]:
            if other is not found[0]:
                unify(found[0], other, f"{why} joins it with what has a fixed order")
        out.append(found[0] if found else Axis(size))
    return tuple(reversed(out))


def same(call: Call) -> list[Axes]:
    """Axes pass: the order of an axis does not matter, or it is normalised over."""
    return [call.axes(call.first) for _ in call.outputs]


def made(call: Call) -> list[Axes]:
    """A tensor of one value everywhere, which any permutation leaves as it is."""
    return [tuple(map(Axis, t.shape)) for t in call.outputs]


def _dims(call: Call, rank: int, name: str = "dim") -> list[int]:
    dims = call.arguments.get(name)
    dims = list(range(rank)) if dims is None or dims == [] else dims if isinstance(dims, list | tuple) else [dims]
    return [d % rank for d in dims] if rank else []


def reduced(call: Call) -> list[Axes]:
    """A number for every index of the other axes, whatever the order of those summed over."""
    axes = call.axes(call.first)
    dims = _dims(call, len(axes))
    keeps = call.outputs[0].dim() == len(axes)
    left = tuple(Axis(1) if i in dims else a for i, a in enumerate(axes) if keeps or i not in dims)
    return [left for _ in call.outputs]


def located(call: Call) -> list[Axes]:
    """A reduction that gives places too."""
    axes = call.axes(call.first)
    if len(call.outputs) > 1 or call.name.startswith("arg"):
        for dim in _dims(call, len(axes)):
            freeze(axes[dim], f"{call.why} gives places on it")
    return reduced(call)


def ordered(call: Call) -> list[Axes]:
    """What reads the order of some axes."""
    axes = list(call.axes(call.first))
    name = "dims" if "dims" in call.arguments else "dim"
    for dim in _dims(call, len(axes), name):
        freeze(axes[dim], f"{call.why} reads its order")
        axes[dim] = positions(call.outputs[0].shape[dim])
    return [tuple(axes) for _ in call.outputs]


def triangular(call: Call) -> list[Axes]:
    """aten::tril, aten::triu: zeros on one side of the diagonal of the last two dimensions."""
    axes = call.axes(call.first)
    for axis in axes[-2:]:
        freeze(axis, f"{call.why} reads its order")
    return [axes]


# shapes


def viewed(call: Call) -> list[Axes]:
    """The same numbers in the same order under another shape: axes are flattened and factored."""
    tensor, (out,) = call.first, call.outputs
    before = [(n, a) for n, a in zip(tensor.shape, call.raw(tensor), strict=True) if n != 1]
    after = [n for n in out.shape if n != 1]
    if out.dtype != tensor.dtype:
        raise Misfit("reads numbers as others")
    if 0 in out.shape:
        raise Misfit("has no elements")
    found: list[Axis] = []
    while after:
        sizes, parts = [after.pop(0)], [before.pop(0)]
        while prod(sizes) != prod(n for n, _ in parts):
            if prod(sizes) < prod(n for n, _ in parts):
                sizes.append(after.pop(0))
            else:
                parts.append(before.pop(0))
        whole = product(a for _, a in parts)
        found += [whole] if len(sizes) == 1 else factor(whole, sizes, _reshaped(call), picked=True)
    axes = iter(found)
    return [tuple(Axis(1) if n == 1 else next(axes) for n in out.shape)]


def _reshaped(call: Call) -> str:
    return f"{call.why} cuts it across its parts"


def permuted(call: Call) -> list[Axes]:
    """Dimensions in another order."""
    axes = call.raw(call.first)
    if call.name == "permute":
        return [tuple(axes[d] for d in call["dims"])]
    first, second = (0, 1) if call.name == "t" else (call["dim0"], call["dim1"])
    swapped = list(axes)
    if len(axes) > 1:
        swapped[first], swapped[second] = axes[second], axes[first]
    return [tuple(swapped)]


def unsqueezed(call: Call) -> list[Axes]:
    """One more dimension."""
    axes = list(call.raw(call.first))
    axes.insert(call["dim"] % (len(axes) + 1), Axis(1))
    return [tuple(axes)]


def squeezed(call: Call) -> list[Axes]:
    """Fewer dimensions of size one."""
    axes = call.raw(call.first)
    dims = _dims(call, len(axes))
    return [tuple(a for i, a in enumerate(axes) if i not in dims or a.size != 1)]


def expanded(call: Call) -> list[Axes]:
    """Repeated without a copy: along such an axis all is alike."""
    return [_broadcast([call.raw(call.first)], call.outputs[0].shape, call.why)]


def repeated(call: Call) -> list[Axes]:
    """Copies end to end."""
    repeats, axes = call["repeats"], call.raw(call.first)
    axes = (*[Axis(1)] * (len(repeats) - len(axes)), *axes)
    return [tuple(product([Axis(n), a]) for n, a in zip(repeats, axes, strict=True))]


def _taken(axes: Axes, dim: int, index: int, why: str) -> Axes:
    """Without a dimension, at one place of it."""
    outer = axes[dim].settle()
    if pick(outer) or any(_member(axis, outer, index) is not axis for axis in axes):
        axes = tuple(_member(axis, outer, index) for axis in axes)
    elif not is_frozen(outer):
        cut(cut(outer, index, why)[1], 1, why)
    return tuple(a for i, a in enumerate(axes) if i != dim)


def _member(axis: Axis, outer: Axis, index: int) -> Axis:
    stack = axis.stack()
    inside = stack is not None and stack.outer is not None and stack.outer.settle() is outer
    return stack.parts[index] if stack is not None and inside else axis


def selected(call: Call) -> list[Axes]:
    """One or all places of a dimension."""
    axes = call.raw(call.first)
    dim = call["dim"] % len(axes)
    size = axes[dim].size
    places = [call["index"] % size] if call.name == "select" else range(size)
    return [_taken(axes, dim, i, f"{call.why} takes a part of it") for i in places]


def sliced(call: Call) -> list[Axes]:
    """Some neighbouring places of a dimension, or every so many of them."""
    axes = list(call.raw(call.first))
    dim, size = call["dim"] % len(axes), call.outputs[0].shape[call["dim"]]
    if size == axes[dim].size:
        return [tuple(axes)]
    start = min(max(s + axes[dim].size if (s := call["start"] or 0) < 0 else s, 0), axes[dim].size)
    if call["step"] != 1:
        freeze(axes[dim], f"{call.why} takes every {call['step']} places of it")
    axes[dim] = part(axes[dim], start, size, call.why)
    return [tuple(axes)]


def parted(call: Call) -> list[Axes]:
    """Parts of a dimension, one after the other."""
    axes, dim = call.raw(call.first), call["dim"] % call.first.dim()
    start, out = 0, []
    for tensor in call.outputs:
        out.append((*axes[:dim], part(axes[dim], start, tensor.shape[dim], call.why), *axes[dim + 1 :]))
        start += tensor.shape[dim]
    return out


def joined(call: Call) -> list[Axes]:
    """Tensors end to end along a dimension."""
    parts = [list(call.axes(t)) for t in call["tensors"] if t.shape != (0,)]
    dim = call["dim"] % call.outputs[0].dim()
    out = _broadcast([tuple(a for i, a in enumerate(p) if i != dim) for p in parts], _without(call, dim), call.why)
    return [(*out[:dim], cat(p[dim] for p in parts), *out[dim:])]


def _without(call: Call, dim: int) -> list[int]:
    return [n for i, n in enumerate(call.outputs[0].shape) if i != dim]


def stacked_up(call: Call) -> list[Axes]:
    """aten::stack: one more dimension, at every place of which one of the tensors lies with its own axes."""
    outer = positions(len(call["tensors"]))
    out = []
    for members in zip(*map(call.axes, call["tensors"]), strict=True):
        alike = all(member is members[0] for member in members) or all(map(is_frozen, members))
        out.append(members[0] if alike else stacked(outer, members))
    out.insert(call["dim"] % call.outputs[0].dim(), outer)
    return [tuple(out)]


def padded(call: Call) -> list[Axes]:
    """A constant before and behind."""
    axes, pad = list(call.axes(call.first)), list(call["pad"])
    for dim, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
        axis = part(axes[-dim], max(-before, 0), axes[-dim].size + min(before, 0) + min(behind, 0), call.why)
        before, behind = max(before, 0), max(behind, 0)
        if before or behind:
            still = is_frozen(axis)
            axis = positions(axis.size + before + behind) if still else cat([Axis(before), axis, Axis(behind)])
        axes[-dim] = axis
    return [tuple(axes)]


def restrided(call: Call) -> list[Axes]:
    """Another layout in memory, where only dimensions of one place get other strides."""
    known = call.known[id(call.first)]
    asked = zip(call["size"], call["stride"], known.axes, known.strides, strict=False)
    if len(call["size"]) != len(known.axes) or any(n != a.size or (n > 1 and s != t) for n, s, a, t in asked):
        raise Misfit("is a view that its rule does not know")
    return [known.axes]


def spatial(call: Call) -> list[Axes]:
    """Windows over space: the last one to three dimensions, as the name says."""
    rank = int(re.findall(r"(\d)d", call.name)[0])
    axes = call.axes(call.first)
    for axis in axes[-rank:]:
        freeze(axis, f"{call.why} reads it as space")
    return [(*axes[:-rank], *map(positions, t.shape[-rank:])) for t in call.outputs]


def sampled(call: Call) -> list[Axes]:
    """aten::grid_sampler_2d, aten::grid_sampler_3d: maps (n, c, ...) read at the coordinates that a grid (n, ..., 2 or
    3) holds in the order of its last dimension.
    """
    batch, channels, *space = call.axes(call["input"])
    images, *places, coordinates = call.axes(call["grid"])
    call.tie(batch, images)
    for axis in space:
        freeze(axis, f"{call.why} reads it as space")
    freeze(coordinates, f"{call.why} reads it as coordinates")
    return [(batch, channels, *places)]


def windows_side_by_side(call: Call) -> list[Axes]:
    """aten::im2col: for every channel the places of a window, and a column for every window."""
    *rest, channels, height, width = call.axes(call.first)
    for axis in (height, width):
        freeze(axis, f"{call.why} reads it as space")
    cells, windows = prod(call["kernel_size"]), call.outputs[0].shape[-1]
    return [(*rest, product([channels, positions(cells)]), positions(windows))]


def windows_laid_over(call: Call) -> list[Axes]:
    """aten::col2im: the sums of windows where they overlap."""
    *rest, columns, windows = call.axes(call.first)
    cells = prod(call["kernel_size"])
    channels, within = divide(columns, columns.size // cells, _reshaped(call))
    for axis in (within, windows):
        freeze(axis, f"{call.why} reads it as space")
    return [(*rest, channels, *map(positions, call.outputs[0].shape[-2:]))]


def windowed(call: Call) -> list[Axes]:
    """aten::unfold: windows along one dimension, their places along one more."""
    axes = list(call.axes(call.first))
    dim = call["dimension"] % max(len(axes), 1)
    for axis in axes[dim : dim + 1]:
        freeze(axis, f"{call.why} reads it as space")
    axes[dim : dim + 1] = list(map(positions, call.outputs[0].shape[dim : dim + 1]))[: len(axes)]
    return [(*axes, positions(call["size"]))]


def as_pairs(call: Call) -> list[Axes]:
    """aten::view_as_real: a dimension more, of the real and the imaginary part."""
    return [(*call.raw(call.first), positions(2))]


def of_pairs(call: Call) -> list[Axes]:
    """aten::view_as_complex: the last dimension is the real and the imaginary part."""
    *axes, pair = call.axes(call.first)
    freeze(pair, f"{call.why} reads it as real and imaginary part")
    return [tuple(axes)]


def shuffled(call: Call) -> list[Axes]:
    """Pixels into channels and back; channels of several blocks in turn."""
    axes = call.axes(call.first)
    if "channel_shuffle" in call.name:
        outer, inner = divide(axes[1], call["groups"], _reshaped(call))
        return [(axes[0], product([inner, outer]), *axes[2:])]
    *rest, channels, height, width = axes
    scale = call["upscale_factor" if call.name == "pixel_shuffle" else "downscale_factor"]
    space = map(positions, call.outputs[0].shape[-2:])
    if call.name == "pixel_unshuffle":
        return [(*rest, product([channels, positions(scale * scale)]), *space)]
    kept, cells = divide(channels, channels.size // scale**2, _reshaped(call))
    freeze(cells, f"{call.why} makes pixels of it")
    return [(*rest, kept, *space)]


def gated(call: Call) -> list[Axes]:
    """One half scaled by the other."""
    axes = list(call.axes(call.first))
    dim = call["dim"] % len(axes)
    first, second = cut(axes[dim], axes[dim].size // 2, f"{call.why} takes halves of it")
    unify(first, second, f"{call.why} joins halves of it")
    axes[dim] = first
    return [tuple(axes)]


POINTWISE = (
    "copy fill zero detach alias lift_fresh _to_copy clone _prelu_kernel native_dropout bernoulli hardswish silu "
    "complex polar _conj _conj_physical _neg_view"
)
REDUCED = "sum mean prod amax amin var std var_mean std_mean logsumexp any all nansum norm linalg_vector_norm"
LOCATED = "max min argmax argmin median nanmedian mode kthvalue"
ORDERED = "cumsum cumprod logcumsumexp cummax cummin sort topk flip roll argsort _fft_r2c _fft_c2r _fft_c2c"
SPATIAL = "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d"
SPATIAL += " _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d"
SPATIAL += "".join(f" {kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))
SPATIAL += "".join(f" upsample_nearest{n}d _upsample_nearest_exact{n}d" for n in (1, 2, 3)) + " upsample_linear1d"
SPATIAL += " upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE.split(), pointwise),
    **dict.fromkeys("_softmax _log_softmax _safe_softmax".split(), same),
    **dict.fromkeys("zeros ones full empty new_zeros new_ones new_full new_empty".split(), made),
    **dict.fromkeys("zeros_like ones_like full_like empty_like".split(), made),
    **dict.fromkeys(REDUCED.split(), reduced),
    **dict.fromkeys(LOCATED.split(), located),
    **dict.fromkeys(ORDERED.split(), ordered),
    **dict.fromkeys("tril triu".split(), triangular),
    **dict.fromkeys("view _unsafe_view reshape _reshape_alias".split(), viewed),
    **dict.fromkeys("permute transpose t".split(), permuted),
    **dict.fromkeys("select unbind".split(), selected),
    **dict.fromkeys("split split_with_sizes chunk unsafe_split unsafe_split_with_sizes".split(), parted),
    **dict.fromkeys(SPATIAL.split(), spatial),
    **dict.fromkeys("grid_sampler_2d grid_sampler_3d cudnn_grid_sampler".split(), sampled),
    **dict.fromkeys("pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle".split(), shuffled),
    **{"cat": joined, "stack": stacked_up},
    **{"unsqueeze": unsqueezed, "squeeze": squeezed, "expand": expanded, "repeat": repeated, "slice": sliced},
    **{"as_strided": restrided},
    **{"constant_pad_nd": padded, "glu": gated},
    **{"im2col": windows_side_by_side, "col2im": windows_laid_over, "unfold": windowed},
    **{"view_as_real": as_pairs, "view_as_complex": of_pairs},
    **LOOKUPS,
    **PRODUCTS,
}
