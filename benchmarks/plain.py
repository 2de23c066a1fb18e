"""The baseline: the same training in the way of published PyTorch code for curves (Garipov et al. 2018).

A curve network is a copy of the network in which each layer holds a weight per control point and interpolates them.
Images are augmented one by one, by torchvision's transforms of PIL images in a DataLoader. The optimiser is
torch.optim.SGD, the memory format channels first.
"""

from collections.abc import Sequence
from copy import deepcopy
from math import comb
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from neuralign.datasets.images import Images


class CurveLayer(nn.Module):
    """A layer of a Bezier curve with one bend. Its tensors at both ends are fixed, those at the bend are trained."""

    coefficients: Sequence[float] = (1.0, 0.0, 0.0)

    def __init__(self, ends: tuple[nn.Module, nn.Module]):
        super().__init__()
        self.norm: Tensor | float = 0.0  # squared norm of the tensors that were interpolated last
        for name in ("weight", "bias"):
            first, last = (getattr(end, name) for end in ends)
            for i, tensor in enumerate((first, None if first is None else (first + last) / 2, last)):
                parameter = None if tensor is None else nn.Parameter(tensor.detach().clone(), requires_grad=i == 1)
                self.register_parameter(f"{name}_{i}", parameter)

    def interpolated(self) -> list[Any]:
        """Weight and bias at the curve's current point."""
        interpolated: list[Any] = []
        self.norm = 0.0
        for name in ("weight", "bias"):
            tensors = [getattr(self, f"{name}_{i}") for i in range(3)]
            at = None if tensors[0] is None else sum(c * x for c, x in zip(self.coefficients, tensors, strict=True))
            self.norm = self.norm if at is None else self.norm + torch.sum(at**2)
            interpolated.append(at)
        return interpolated


class CurveConv2d(CurveLayer):
    def __init__(self, ends):
        super().__init__(ends)
        self.stride, self.padding = ends[0].stride, ends[0].padding

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.interpolated()
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class CurveLinear(CurveLayer):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.interpolated())


class CurveBatchNorm2d(CurveLayer):
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, ends):
        super().__init__(ends)
        self.momentum, self.eps = ends[0].momentum, ends[0].eps
        self.register_buffer("running_mean", ends[0].running_mean.clone())
        self.register_buffer("running_var", ends[0].running_var.clone())

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.interpolated()
        return F.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps
        )


LAYERS = {nn.Conv2d: CurveConv2d, nn.Linear: CurveLinear, nn.BatchNorm2d: CurveBatchNorm2d}


class CurveNetwork(nn.Module):
    """A network on the curve between two networks: each call uses the weights of the point t."""

    def __init__(self, start: nn.Module, end: nn.Module):
        super().__init__()
        self.network = deepcopy(start)
        for name, first in list(start.named_modules()):
            if type(first) in LAYERS:
                parent, _, leaf = name.rpartition(".")
                twin = LAYERS[type(first)]((first, end.get_submodule(name)))
                setattr(self.network.get_submodule(parent), leaf, twin)
        self.layers = [m for m in self.network.modules() if isinstance(m, CurveLayer)]

    def forward(self, x: Tensor, t: float) -> Tensor:
        coefficients = [comb(2, i) * t**i * (1 - t) ** (2 - i) for i in range(3)]
        for layer in self.layers:
            layer.coefficients = coefficients
        return self.network(x)

    def norm(self) -> Tensor:
        """The squared norm of the parameters at the last t."""
        return torch.stack([torch.as_tensor(layer.norm) for layer in self.layers]).sum()


class Pictures(Dataset):
    """A dataset like those of torchvision: an array, and a transform that is applied to each image as a PIL image."""

    def __init__(self, images: Images, mean: Sequence[float], std: Sequence[float]):
        self.pixels = images.pixels.permute(0, 2, 3, 1).cpu().numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomAffine(15),
                transforms.RandomHorizontalFlip(),
                transforms.RandomCrop(self.pixels.shape[1], padding=self.pixels.shape[1] // 8),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def loader(images: Images, mean: Sequence[float], std: Sequence[float], *, batch_size: int, workers: int) -> DataLoader:
    """Shuffled batches of augmented images."""
    return DataLoader(Pictures(images, mean, std), batch_size, shuffle=True, num_workers=workers)


def optimiser(network: nn.Module, weight_decay: float) -> torch.optim.SGD:
    """The paper's SGD with Nesterov momentum, for the parameters that require gradients."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=weight_decay, nesterov=True)


def endpoint_epoch(network: nn.Module, sgd: torch.optim.SGD, batches) -> dict[str, float]:
    """Train a network for one pass over `batches` of (images, labels), normalised; mean loss and accuracy."""
    return _epoch(network, sgd, batches, lambda x: (network(x), 0.0))


def curve_epoch(curve: CurveNetwork, sgd: torch.optim.SGD, batches, weight_decay: float) -> dict[str, float]:
    """Train a curve for one pass, t new for every batch, with the norm of the interpolated weights in the loss."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = curve(x, float(np.random.rand()))  # before `norm`, which is that of the weights at this t
        return outputs, weight_decay / 2 * curve.norm()

    return _epoch(curve, sgd, batches, forward)


def _epoch(trained: nn.Module, sgd: torch.optim.SGD, batches, forward) -> dict[str, float]:
    """One pass over `batches`; mean loss and accuracy in percent. `forward(x)` returns the outputs and a penalty."""
    trained.train()
    total, right, seen = 0.0, 0, 0
    device = next(trained.parameters()).device
    for x, y in ((x.to(device), y.to(device)) for x, y in batches):
        outputs, penalty = forward(x)
        loss = F.cross_entropy(outputs, y) + penalty
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        total += loss.item() * len(y)
        right += (outputs.argmax(1) == y).sum().item()
        seen += len(y)
    return {"loss": total / seen, "accuracy": 100 * right / seen}
