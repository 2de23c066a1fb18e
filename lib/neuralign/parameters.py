"""All parameters of a network as one flat vector and back: curves, penalties and optimisers become one operation."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the flat vector."""

    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        return cls({name: t.shape for name, t in tensors.items()})

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector (d,) with a copy of every tensor of the layout, in its order."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as views of `flat` (d,); gradients flow back to it."""
        pieces = flat.split([shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
