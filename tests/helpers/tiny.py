"""Tiny problems, shared by the tests of the numeric library."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.config.signatures import plugins, schema
from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model, State, buffers, build, parameters
from neuralign.symmetry.permutations import PermutationSpec

SMALL: dict[str, dict[str, Any]] = {
    "googlenet": {"width": 0.1},
    "gpt": {"width": 8, "depth": 1, "heads": 2, "ratio": 2},
    "mlp": {"width": 8, "depth": 2},
    "resnet": {"depth": 8, "width": 4},
    "tinyten": {"width": 4},
    "vit": {"width": 8, "depth": 1, "heads": 2, "ratio": 2},
}
OF_OTHER_DATA = ("gpt", "mlp")  # of tokens and of tables; all others take images
TRANSFORMERS = ("gpt", "vit")
NETWORKS_OF_IMAGES = tuple(name for name in plugins("networks") if name not in OF_OTHER_DATA)
# these can be folded and have a bound
CONVOLUTIONAL = tuple(name for name in NETWORKS_OF_IMAGES if name not in TRANSFORMERS)

BUDGET = {"eps": 0.03, "step": 0.01}  # options of attacks that have no default


def attack_entry(use: str) -> dict[str, Any]:
    """A config entry of this attack."""
    return {"use": use, **{k: v for k, v in BUDGET.items() if k in schema("attacks", use).model_fields}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(use: str, **options: Any) -> Model:
    """A narrow network of this plug-in for 5 classes and 3 channels, in float64."""
    torch.manual_seed(0)
    entry = {"use": use, **SMALL.get(use, {}), **options}
    return double(build(entry, classes=5, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)))


def double(model: Model) -> Model:
    return Model(model.network.double(), model.mean.double(), model.std.double())


def unnormalised(network: nn.Module, channels: int = 3) -> Model:
    """A hand-made network as a model in float64."""
    return double(Model(network, torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)))


def perceptron(side: int = 8, dropout: float = 0.0) -> Model:
    """The fastest network with all that training has to take care of: batch norm and dropout."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(3 * side * side, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout)]
    return unnormalised(nn.Sequential(*layers, nn.Linear(8, 5)))


def whole(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers."""
    return {**parameters(network), **buffers(network)}


def randomised(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A state without accidental symmetry: every tensor is random, and signals keep their size from layer to layer."""
    draws = generator(seed)

    def draw(name: str, old: Tensor) -> Tensor:
        if not old.is_floating_point():
            return old.clone()
        new = torch.randn(old.shape, generator=draws, dtype=old.dtype)
        if old.dim() > 1:
            return new * sqrt(2 / old[0].numel())
        return 0.5 + new.sigmoid() if name.endswith(("weight", "running_var")) else 0.1 * new

    return {name: draw(name, old) for name, old in whole(network).items()}


def shifts(spec: PermutationSpec) -> dict[str, Tensor]:
    """The permutation that moves every channel of every free group by one place."""
    return {group: torch.arange(spec.sizes[group]).roll(1) for group in spec.free}


def pictures(count: int = 12, side: int = 16, channels: int = 3, seed: int = 0) -> Images:
    """Random smooth pictures of 5 classes in turn."""
    coarse = torch.rand(count, channels, 4, 4, generator=generator(seed))
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bilinear") * 255
    return Images(pixels.to(torch.uint8), torch.arange(count) % 5)


def plain(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """The transform that augments nothing."""
    return as_float(pixels)


def assert_same(actual: State, expected: State) -> None:
    """The same names and the same bits."""
    assert actual.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert not different


def assert_close(actual: State, expected: State, tolerance: float = 1e-12) -> None:
    """The same names and, within an absolute and relative tolerance, the same values."""
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            actual[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
