"""Rules of elementwise operations, of constants, of reductions, and of operations that depend on an order."""

from collections.abc import Sequence

from neuralign.symmetry.tracing.axes import Axis, ordered_axis, unify
from neuralign.symmetry.tracing.call import FIXED_ORDER, ORDER, Axes, Call, Rule


def elementwise(call: Call) -> list[Axes]:
    """Elementwise operations with broadcasting: axes that are matched position by position are permuted alike."""
    operands = [call.stacked_axes(t) for t in call.tensors]
    return [broadcast(call, operands, t.shape) for t in call.outputs]


def broadcast(call: Call, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """The axes of `shape`, to which operands with these axes are broadcast; aligned axes of equal size are unified."""
    out = []
    for dim, size in enumerate(reversed(shape), 1):
        aligned = [axes[-dim] for axes in operands if len(axes) >= dim and axes[-dim].size == size]
        for axis in aligned[1:]:
            if axis is not aligned[0]:
                unify(aligned[0], axis, call.reason(FIXED_ORDER))
        out.append(aligned[0] if aligned else Axis(size))
    return tuple(reversed(out))


def softmax(call: Call) -> list[Axes]:
    """aten::_softmax, aten::_log_softmax: permuting the input permutes the output, also along `dim`."""
    return [call.axes(call.first) for _ in call.outputs]


def constant(call: Call) -> list[Axes]:
    """aten::zeros, aten::full and the like hold one value everywhere, so any permutation of it is the identity."""
    return [tuple(map(Axis, t.shape)) for t in call.outputs]


def dims_of(call: Call, rank: int, name: str = "dim") -> list[int]:
    """The dimensions in the argument `name`, counted from the front; all `rank` dimensions if it is None or empty."""
    dims = call.arguments.get(name)
    if rank == 0 or dims is None or dims == []:
        return list(range(rank))
    return [d % rank for d in (dims if isinstance(dims, list | tuple) else [dims])]


def reduction(call: Call) -> list[Axes]:
    """aten::sum, aten::mean and the like: the result does not depend on the order of the reduced dimensions."""
    axes = call.axes(call.first)
    dims = dims_of(call, len(axes))
    keepdim = call.outputs[0].dim() == len(axes)
    kept = tuple(Axis(1) if i in dims else a for i, a in enumerate(axes) if keepdim or i not in dims)
    return [kept for _ in call.outputs]


def reduction_with_positions(call: Call) -> list[Axes]:
    """aten::max, aten::argmax and the like: a reduction; it freezes the reduced dimensions if it returns positions."""
    axes = call.axes(call.first)
    if len(call.outputs) > 1 or call.name.startswith("arg"):
        for dim in dims_of(call, len(axes)):
            call.freeze(axes[dim], "returns positions on it")
    return reduction(call)


def ordered(call: Call) -> list[Axes]:
    """aten::cumsum, aten::sort, aten::flip and the like: the result depends on the order along some dimensions."""
    axes = list(call.axes(call.first))
    name = "dims" if "dims" in call.arguments else "dim"
    for dim in dims_of(call, len(axes), name):
        call.freeze(axes[dim], ORDER)
        axes[dim] = ordered_axis(call.outputs[0].shape[dim])
    return [tuple(axes) for _ in call.outputs]


def triangular(call: Call) -> list[Axes]:
    """aten::tril, aten::triu: zeros on one side of the diagonal of the last two dimensions, which are frozen."""
    axes = call.axes(call.first)
    for axis in axes[-2:]:
        call.freeze(axis, ORDER)
    return [axes]


# elementwise operations that ATen does not tag as such
UNTAGGED = (
    "copy fill zero detach alias lift_fresh _to_copy clone _prelu_kernel native_dropout bernoulli hardswish silu "
    "complex polar _conj _conj_physical _neg_view"
)
REDUCTIONS = "sum mean prod amax amin var std var_mean std_mean logsumexp any all nansum norm linalg_vector_norm"
WITH_POSITIONS = "max min argmax argmin median nanmedian mode kthvalue"
ORDERED = "cumsum cumprod logcumsumexp cummax cummin sort topk flip roll argsort _fft_r2c _fft_c2r _fft_c2c"
ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(UNTAGGED.split(), elementwise),
    **dict.fromkeys("_softmax _log_softmax _safe_softmax".split(), softmax),
    **dict.fromkeys("zeros ones full empty new_zeros new_ones new_full new_empty".split(), constant),
    **dict.fromkeys("zeros_like ones_like full_like empty_like".split(), constant),
    **dict.fromkeys(REDUCTIONS.split(), reduction),
    **dict.fromkeys(WITH_POSITIONS.split(), reduction_with_positions),
    **dict.fromkeys(ORDERED.split(), ordered),
    **dict.fromkeys("tril triu".split(), triangular),
}
