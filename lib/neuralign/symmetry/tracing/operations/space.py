"""Rules of operations on spatial dimensions: pooling, padding, interpolation, windows."""

import re
from math import prod

from neuralign.symmetry.tracing.axes import divide, ordered_axis, product
from neuralign.symmetry.tracing.call import SPACE, Axes, Call, Rule
from neuralign.symmetry.tracing.operations.shapes import across_parts


def windows(call: Call) -> list[Axes]:
    """Pooling, reflection and replication padding, interpolation: the last one to three dimensions are frozen."""
    rank = int(re.findall(r"(\d)d", call.name)[0])
    axes = call.axes(call.first)
    for axis in axes[-rank:]:
        call.freeze(axis, SPACE)
    return [(*axes[:-rank], *map(ordered_axis, t.shape[-rank:])) for t in call.outputs]


def grid_sampler(call: Call) -> list[Axes]:
    """aten::grid_sampler_2d and the like: feature maps (n, c, ...) are read at coordinates (n, ..., 2 or 3).

    The grid's spatial dimensions replace those of the maps.
    """
    batch, channels, *space = call.axes(call.first)
    grid_batch, *grid_space, coordinates = call.axes(call["grid"])
    call.unify(batch, grid_batch)
    for axis in space:
        call.freeze(axis, SPACE)
    call.freeze(coordinates, "reads coordinates from it")
    return [(batch, channels, *grid_space)]


def im2col(call: Call) -> list[Axes]:
    """aten::im2col, as of F.unfold: (n, c, h, w) -> (n, c * positions of a window, windows)."""
    *batch, channels, height, width = call.axes(call.first)
    for axis in (height, width):
        call.freeze(axis, SPACE)
    positions, count = prod(call["kernel_size"]), call.outputs[0].shape[-1]
    return [(*batch, product([channels, ordered_axis(positions)]), ordered_axis(count))]


def col2im(call: Call) -> list[Axes]:
    """aten::col2im, as of F.fold: the sums of overlapping windows, (n, c * positions, windows) -> (n, c, h, w)."""
    *batch, columns, count = call.axes(call.first)
    positions = prod(call["kernel_size"])
    channels, within = divide(columns, columns.size // positions, across_parts(call))
    for axis in (within, count):
        call.freeze(axis, SPACE)
    return [(*batch, channels, *map(ordered_axis, call.outputs[0].shape[-2:]))]


def unfold(call: Call) -> list[Axes]:
    """aten::unfold, as of Tensor.unfold: windows along one dimension, their positions in a new last one."""
    axes = list(call.axes(call.first))
    if axes:  # else it is a scalar, which is one window
        dim = call["dimension"] % len(axes)
        call.freeze(axes[dim], SPACE)
        axes[dim] = ordered_axis(call.outputs[0].shape[dim])
    return [(*axes, ordered_axis(call["size"]))]


def pixel_shuffle(call: Call) -> list[Axes]:
    """aten::pixel_shuffle: (n, c * s * s, h, w) -> (n, c, h * s, w * s)."""
    *batch, channels, _, _ = call.axes(call.first)
    kept, pixels = divide(channels, channels.size // call["upscale_factor"] ** 2, across_parts(call))
    call.freeze(pixels, "makes pixels of it")
    return [(*batch, kept, *map(ordered_axis, call.outputs[0].shape[-2:]))]


def pixel_unshuffle(call: Call) -> list[Axes]:
    """aten::pixel_unshuffle: (n, c, h * s, w * s) -> (n, c * s * s, h, w)."""
    *batch, channels, _, _ = call.axes(call.first)
    pixels = ordered_axis(call["downscale_factor"] ** 2)
    return [(*batch, product([channels, pixels]), *map(ordered_axis, call.outputs[0].shape[-2:]))]


WINDOWS = "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d"
WINDOWS += " _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d"
WINDOWS += "".join(f" {kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))
WINDOWS += "".join(f" upsample_nearest{n}d _upsample_nearest_exact{n}d" for n in (1, 2, 3)) + " upsample_linear1d"
WINDOWS += " upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
SPATIAL: dict[str, Rule] = {
    **dict.fromkeys(WINDOWS.split(), windows),
    **dict.fromkeys("grid_sampler_2d grid_sampler_3d cudnn_grid_sampler".split(), grid_sampler),
    **{"im2col": im2col, "col2im": col2im, "unfold": unfold},
    **{"pixel_shuffle": pixel_shuffle, "pixel_unshuffle": pixel_unshuffle},
}
