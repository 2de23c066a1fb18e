"""The problems that are timed: the paper's networks on random images, and one epoch of the library's training loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal

import torch
from torch import Tensor

from neuralign.config.plugins import Entry, plugin
from neuralign.curves.curve import Curve, straight_line
from neuralign.datasets.images import Images, Transform, as_float
from neuralign.networks.model import Model, buffers, build, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.training import augmentation
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Attack, Keeper, Regime

CLASSES = 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)  # of CIFAR10
AUGMENT: list[Entry] = [{"use": "affine", "degrees": 15}, {"use": "flip"}, {"use": "crop", "pad": 0.125}]  # the paper's
NETWORKS: dict[str, Entry] = {"TinyTen": {"use": "tinyten"}, "ResNet32": {"use": "resnet", "depth": 32}}
SMALL: dict[str, Entry] = {"TinyTen": {"use": "tinyten", "width": 2}}  # to test that a benchmark runs
# a low learning rate, because random images cannot be learned
REGIME = Regime(1, 64, 1e-3, 0.9, 5e-4, lambda epoch, epochs: 1.0)
Epoch = Callable[[], object]
Kind = Literal["endpoint", "curve"]


@dataclass(frozen=True)
class Problem:
    """A network with two random endpoints and the Bezier curve between them, on one device."""

    name: str
    model: Model
    layout: FlatLayout
    curve: Curve
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, name: str, entry: Entry, device: str = "cpu", *, normalise: bool = True) -> "Problem":
        """The problem of a network. `name`: for the table; `entry`: as in the section `networks` of the config."""
        mean, std = (MEAN, STD) if normalise else (None, None)
        torch.manual_seed(0)
        ends = [build(entry, classes=CLASSES, channels=3, mean=mean, std=std).to(torch.device(device)) for _ in "ab"]
        layout = FlatLayout.of(parameters(ends[0].network))
        flat = [layout.flatten(parameters(end.network)) for end in ends]
        curve = straight_line(plugin("curves", {"use": "bezier"}), *flat)
        return cls(name, ends[0], layout, curve, buffers(ends[0].network))

    def endpoint(self, images: Images, regime: Regime, transform: Transform, attack: Attack | None = None) -> Epoch:
        """One epoch of training an endpoint."""
        return lambda: fit(self.training("endpoint", images, regime, transform, attack))

    def bezier(self, images: Images, regime: Regime, transform: Transform, attack: Attack | None = None) -> Epoch:
        """One epoch of training the bend of the curve."""
        return lambda: fit(self.training("curve", images, regime, transform, attack))

    def training(
        self,
        kind: Kind,
        images: Images,
        regime: Regime,
        transform: Transform,
        attack: Attack | None = None,
        *,
        seed: int = 0,
        keeper: Keeper | None = None,
    ) -> Training:
        """A training of an endpoint, from the first of both networks for even seeds, or of the bend of the curve."""
        start, sample, basis = self.curve.ends[seed % 2], _itself, None
        if kind == "curve":
            start, sample, basis = self.curve.bends, self.curve.sample, self.curve.basis
        arguments = (self.model, start, sample, self.layout, self.buffers, images, regime)
        options = {"transform": transform, "basis": basis, "attack": attack, "seed": seed, "keeper": keeper}
        return Training(*arguments, **options)


def _itself(weights: Tensor, _: Tensor) -> Tensor:
    """The weights of an endpoint, which is its own only control point."""
    return weights


@dataclass(frozen=True)
class Ready(Images):
    """Images with batches prepared as floats on the device, so that an epoch consists of training steps only."""

    prepared: Iterator[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, images: Images, size: int) -> "Ready":
        """Batches of `size` images in file order, repeated for ever. `size` must divide the number of images."""
        pairs = zip(images.pixels.split(size), images.labels.split(size), strict=True)
        batches = [(as_float(pixels), labels) for pixels, labels in pairs]
        return cls(images.pixels, images.labels, cycle(batches))

    def epoch(self, size: int, *_: Any, **__: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """The prepared batches, one for each step; all other arguments are ignored."""
        return islice(self.prepared, len(self.batch_sizes(size)))


def pictures(count: int, device: str = "cpu", side: int = 32) -> Images:
    """Random uint8 images (count, 3, side, side) with random labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Images(pixels.to(device), labels.to(device))


def augment() -> Transform:
    """The paper's augmentation of CIFAR: rotation, flip, crop."""
    return augmentation.pipeline(AUGMENT)
