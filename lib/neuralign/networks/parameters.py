"""All parameters of a network as one flat vector and back: curves, penalties and optimisers become one operation."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

# Numbers, 64 bytes in float32: kernels of GPUs read several at once, and fail on weights that begin in between.
ALIGNED = 16


@dataclass(frozen=True)
class FlatLayout:
    """Where each named tensor lies in the flat vector; kernels of 2d convolutions channels last, as the images are.

    The vector is real and of one type, the widest of its tensors: a complex tensor lies in it as pairs of numbers.
    Every tensor begins at a multiple of `ALIGNED`; the gaps before that hold zeros, and stay zero in every linear
    operation, in SGD and in norms.
    """

    shapes: Mapping[str, torch.Size]
    types: Mapping[str, torch.dtype] = field(default_factory=dict)  # of tensors of another type than the vector
    frozen: Mapping[str, Tensor] = field(default_factory=dict)  # tensors that are no part of the vector, as they are
    untrained: frozenset[str] = frozenset()  # tensors of the vector that are moved, but not by gradients

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], untrained: Collection[str] = ()) -> "FlatLayout":
        """The layout of these tensors, without the parameters that do not train (`requires_grad=False`)."""
        frozen = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter) and not t.requires_grad}
        laid = {n: t for n, t in tensors.items() if n not in frozen}
        common = reduce(torch.promote_types, {t.dtype.to_real() for t in laid.values()}, torch.bool)
        types = {n: t.dtype for n, t in laid.items() if t.dtype != common}
        return cls({n: t.shape for n, t in laid.items()}, types, frozen, frozenset(untrained))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector (d,) with a copy of every tensor of the layout, in its order."""
        pieces = []
        for name, _, gap in self._places():
            piece = _flat(tensors[name])
            pieces += [piece, piece.new_zeros(gap)] if gap else [piece]
        return torch.cat(pieces or [torch.empty(0)])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as views of `flat` (d,), those of another type as copies; gradients flow back to it.

        But not from those that are untrained. Frozen tensors are handed out as they are.
        """
        sizes = [size for _, count, gap in self._places() for size in ((count, gap) if gap else (count,))]
        pieces = iter(flat.split(sizes))
        named = {}
        for name, _, gap in self._places():
            piece = next(pieces)
            if gap:
                next(pieces)
            piece = piece.detach() if name in self.untrained else piece
            named[name] = _shaped(piece, self.shapes[name], self.types.get(name))
        return {**named, **self.frozen}

    @property
    def trained(self) -> int:
        """How many numbers of the vector train; where all others come last, these are the first ones."""
        return sum(count + gap for name, count, gap in self._places() if name not in self.untrained)

    def _places(self) -> Iterator[tuple[str, int, int]]:
        """Name and length of every tensor, and of the gap after it; the last has none."""
        last = len(self.shapes) - 1
        for i, (name, shape) in enumerate(self.shapes.items()):
            pair = name in self.types and self.types[name].is_complex
            count = shape.numel() * (2 if pair else 1)
            yield name, count, -count % ALIGNED if i < last else 0


def _flat(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj()).reshape(-1)
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1)


def _shaped(piece: Tensor, shape: torch.Size, kind: torch.dtype | None) -> Tensor:
    if kind is not None and kind.is_complex:
        real, imaginary = piece.view(*shape, 2).unbind(-1)
        return torch.complex(real, imaginary).to(kind)
    if len(shape) == 4:
        units, channels, height, width = shape
        piece = piece.view(units, height, width, channels).permute(0, 3, 1, 2)
    else:
        piece = piece.view(shape)
    return piece if kind is None else piece.to(kind)
