"""All parameters of a network as one flat vector and back: curves, penalties and optimisers become one operation."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the flat vector; kernels of 2d convolutions channels last, as the images are."""

    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        return cls({name: t.shape for name, t in tensors.items()})

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector (d,) with a copy of every tensor of the layout, in its order."""
        found = (tensors[name] for name in self.shapes)
        return torch.cat([(t.permute(0, 2, 3, 1) if t.dim() == 4 else t).reshape(-1) for t in found])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as views of `flat` (d,); gradients flow back to it."""
        pieces = flat.split([shape.numel() for shape in self.shapes.values()])
        return {name: _shaped(piece, shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}


def _shaped(piece: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return piece.view(shape)
    units, channels, height, width = shape
    return piece.view(units, height, width, channels).permute(0, 3, 1, 2)
