"""On a CUDA device, steps recorded as graphs give the bits of ordinary steps. Skipped on other machines."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tiny import assert_same
from torch import Tensor, nn

from neuralign.curves.curve import Curve, straight_line
from neuralign.curves.families.bezier import bezier
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, buffers, build, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.training import cuda_graphs
from neuralign.training.attacks.pgd import pgd
from neuralign.training.augmentation import pipeline
from neuralign.training.loop import Training
from neuralign.training.progress import Diverged, Progress, Regime
from neuralign.training.schedules.constant import constant
from neuralign.training.simultaneous import fit_together

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

REGIME = Regime(epochs=2, batch_size=16, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule=constant)
NETWORKS = [{"use": "tinyten"}, {"use": "tinyten", "width": 3}, {"use": "resnet", "depth": 8}, {"use": "googlenet"}]
ATTACK = partial(pgd, eps=0.03, step=0.01, steps=2)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.fixture(scope="module")
def images() -> Images:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (100, 3, 32, 32), generator=draws, dtype=torch.uint8)
    return Images(pixels.cuda(), (torch.arange(100) % 10).cuda())


def training_of(
    network: dict[str, Any] | Model, images: Images, kind: str = "endpoint", seed: int = 1, **more: Any
) -> Training:
    torch.manual_seed(seed)
    if isinstance(network, dict):
        model, other = (build(network, classes=10, channels=3).to(torch.device("cuda")) for _ in "ab")
    else:
        model = other = network
    layout = FlatLayout.of(parameters(model.network))
    start, end = (layout.flatten(parameters(m.network)) for m in (model, other))
    regime = more.pop("regime", REGIME)
    options: dict[str, Any] = {
        "transform": pipeline([{"use": "affine", "degrees": 15}, {"use": "crop"}]),
        "seed": seed,
    } | more
    if kind == "endpoint":
        return Training(model, start, lambda w, _: w, layout, buffers(model.network), images, regime, **options)
    line = straight_line(bezier, start, end)

    def sample(bends: Tensor, weights: Tensor) -> Tensor:
        return Curve(bezier, line.ends, bends).at(weights)

    return Training(model, line.bends, sample, layout, buffers(model.network), images, regime, basis=bezier, **options)


def trained(training: Training, *, graphs: bool = True) -> Progress:
    if not graphs:
        training._do = training._step
    (progress,) = fit_together([training])
    assert isinstance(progress, Progress)
    return progress


def assert_the_same_bits(actual: Progress | Diverged, expected: Progress) -> None:
    assert isinstance(actual, Progress)
    assert torch.equal(actual.trainable, expected.trainable) and torch.equal(actual.velocity, expected.velocity)
    assert_same(actual.buffers, expected.buffers)
    assert actual.history == expected.history


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind, attack", [("endpoint", None), ("curve", None), ("endpoint", ATTACK)])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_steps_recorded_as_graphs_give_the_bits_of_ordinary_steps(
    network: dict[str, Any], kind: str, attack: Any, precision: str, images: Images
) -> None:
    make = partial(training_of, network, images, kind, attack=attack, regime=replace(REGIME, precision=precision))
    training = make()
    actual = trained(training)
    assert training._do.recordable and len(training._do.graphs) == 2, "a full batch and the last one, of 4 images"
    assert_the_same_bits(actual, trained(make(), graphs=False))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_simultaneous_trainings_give_the_bits_they_give_alone(network: dict[str, Any], images: Images) -> None:
    together = fit_together([training_of(network, images, seed=seed) for seed in range(6)])
    for seed, actual in enumerate(together):
        assert_the_same_bits(actual, trained(training_of(network, images, seed=seed)))


class Counting(nn.Module):
    """Counts its calls in Python and behaves by that, which no graph can repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.layer = 0, nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x.flatten(1)) * (1 if self.calls % 5 else 0.5)


class Reading(nn.Module):
    """Reads a number from the device and branches on it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * (1.0 if x.mean().item() > 0 else 0.5)


class Skipping(nn.Module):
    """Leaves a layer out at random, by a number of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * float(torch.rand(()) < 0.5)


@pytest.mark.parametrize(
    "network, why", [(Counting(), "`calls`"), (Reading(), "synchronizing"), (Skipping(), "generator of the CPU")]
)
def test_networks_that_a_graph_cannot_repeat_are_not_recorded(
    network: nn.Module, why: str, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).to(torch.device("cuda"))
    training = training_of(model, images)
    with caplog.at_level("INFO", logger=cuda_graphs.__name__):
        trained(training)
    assert not training._do.recordable
    assert why in caplog.text
