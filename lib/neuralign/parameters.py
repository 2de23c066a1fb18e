"""All parameters of a network as one flat vector and back: curves, penalties and optimisers become one operation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNED = (
    16  # numbers, 64 bytes in float32: kernels of GPUs read several at once and fail on weights that begin elsewhere
)


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the flat vector; kernels of 2d convolutions channels last, as the images are.

    Every tensor begins at a multiple of `ALIGNED`; the gaps before that hold zeros, and stay zero in every linear
    operation, in SGD and in norms.
    """

    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        return cls({name: t.shape for name, t in tensors.items()})

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector (d,) with a copy of every tensor of the layout, in its order."""
        pieces = []
        for name, _, gap in self._places():
            tensor = tensors[name]
            piece = (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1)
            pieces += [piece, piece.new_zeros(gap)] if gap else [piece]
        return torch.cat(pieces)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as views of `flat` (d,); gradients flow back to it."""
        sizes = [size for _, count, gap in self._places() for size in ((count, gap) if gap else (count,))]
        pieces = iter(flat.split(sizes))
        named = {}
        for name, _, gap in self._places():
            named[name] = _shaped(next(pieces), self.shapes[name])
            if gap:
                next(pieces)
        return named

    def _places(self) -> Iterator[tuple[str, int, int]]:
        """Name and length of every tensor, and of the gap after it; the last has none."""
        last = len(self.shapes) - 1
        for i, (name, shape) in enumerate(self.shapes.items()):
            yield name, shape.numel(), -shape.numel() % ALIGNED if i < last else 0


def _shaped(piece: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return piece.view(shape)
    units, channels, height, width = shape
    return piece.view(units, height, width, channels).permute(0, 3, 1, 2)
