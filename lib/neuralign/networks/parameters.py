"""The tensors of a network as one flat vector, on which curves, penalties and optimisers act, and back."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

# Every tensor begins at a multiple of this many numbers (64 bytes in float32): GPU kernels that load several numbers at
# once fail on weights whose address is not aligned.
ALIGNED = 16


@dataclass(frozen=True)
class FlatLayout:
    """Where each named tensor lies in a flat vector (d,).

    The vector is real and has one dtype, to which those of all tensors are promoted; complex tensors lie in it as pairs
    of numbers. Four-dimensional tensors (kernels of convolutions) lie channels last in memory, as the images do. The
    gaps that align the tensors hold zeros, which linear operations and optimisers leave zero, and which add nothing to
    norms.
    """

    shapes: Mapping[str, torch.Size]  # of the tensors in the vector, in its order
    types: Mapping[str, torch.dtype] = field(default_factory=dict)  # dtypes of tensors that differ from the vector's
    frozen: Mapping[str, Tensor] = field(default_factory=dict)  # tensors outside the vector, which never change
    untrained: frozenset[str] = frozenset()  # tensors of the vector that are interpolated, but get no gradients

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], untrained: Collection[str] = ()) -> "FlatLayout":
        """The layout of these tensors in their order; frozen parameters (`requires_grad=False`) are left out."""
        frozen = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter) and not t.requires_grad}
        included = {n: t for n, t in tensors.items() if n not in frozen}
        common = reduce(torch.promote_types, {t.dtype.to_real() for t in included.values()}, torch.bool)
        types = {n: t.dtype for n, t in included.items() if t.dtype != common}
        return cls({n: t.shape for n, t in included.items()}, types, frozen, frozenset(untrained))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The vector (d,) that holds copies of these tensors."""
        pieces = []
        for name, _, gap in self._pieces():
            piece = _flatten(tensors[name])
            pieces += [piece, piece.new_zeros(gap)] if gap else [piece]
        return torch.cat(pieces or [torch.empty(0)])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """{name: view of `flat` (d,)}, and the frozen tensors. Gradients flow through the views to `flat`.

        A tensor whose dtype differs from the vector's is a copy instead of a view. Untrained tensors are detached.
        """
        sizes = [size for _, count, gap in self._pieces() for size in ((count, gap) if gap else (count,))]
        pieces = iter(flat.split(sizes))
        named = {}
        for name, _, gap in self._pieces():
            piece = next(pieces)
            if gap:
                next(pieces)
            piece = piece.detach() if name in self.untrained else piece
            named[name] = _unflatten(piece, self.shapes[name], self.types.get(name))
        return {**named, **self.frozen}

    @property
    def trained_size(self) -> int:
        """How many numbers of the vector are trained, gaps included.

        They are the first ones if the untrained tensors come last, as in the layout of `curves.endpoints.endpoints_of`.
        """
        return sum(count + gap for name, count, gap in self._pieces() if name not in self.untrained)

    def _pieces(self) -> Iterator[tuple[str, int, int]]:
        """(name, how many numbers, how many in the gap after them) of every tensor; no gap follows the last."""
        last = len(self.shapes) - 1
        for i, (name, shape) in enumerate(self.shapes.items()):
            is_complex = name in self.types and self.types[name].is_complex
            count = shape.numel() * (2 if is_complex else 1)
            yield name, count, -count % ALIGNED if i < last else 0


def _flatten(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as a real vector, in the order in which the layout has them."""
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj()).reshape(-1)
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1)


def _unflatten(piece: Tensor, shape: torch.Size, dtype: torch.dtype | None) -> Tensor:
    """The tensor of this shape that `_flatten` made into `piece`; of another type if `dtype` is not None."""
    if dtype is not None and dtype.is_complex:
        real, imaginary = piece.view(*shape, 2).unbind(-1)
        return torch.complex(real, imaginary).to(dtype)
    if len(shape) == 4:
        units, channels, height, width = shape
        piece = piece.view(units, height, width, channels).permute(0, 3, 1, 2)
    else:
        piece = piece.view(shape)
    return piece if dtype is None else piece.to(dtype)
