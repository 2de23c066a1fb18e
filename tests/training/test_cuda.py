"""On a GPU, steps recorded as CUDA graphs give the bits of ordinary steps. Without a GPU a pretended one is used."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tiny import SMALL, assert_same
from torch import Tensor, nn

from benchmarks.pretended_gpu import pretended_gpu
from neuralign.curves.curve import Curve, straight_line
from neuralign.curves.families.bezier import bezier
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, buffers, build, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.training import cuda_graphs
from neuralign.training.attacks.pgd import pgd
from neuralign.training.augmentation import pipeline
from neuralign.training.loop import Training
from neuralign.training.optimisers.adamw import adamw
from neuralign.training.progress import Diverged, Progress, Regime
from neuralign.training.schedules.constant import constant
from neuralign.training.schedules.cosine import cosine
from neuralign.training.simultaneous import fit_together

IS_REAL = torch.cuda.is_available()
IMAGES = 100 if IS_REAL else 20  # in batches of 16 the last one has 4
REGIME = Regime(epochs=2, batch_size=16, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule=constant)
WHOLE = [{"use": "tinyten"}, {"use": "tinyten", "width": 3}, {"use": "resnet", "depth": 8}, {"use": "googlenet"}]
TINY = [{"use": name, **SMALL[name]} for name in ("tinyten", "resnet")]
ATTACK = partial(pgd, eps=0.03, step=0.01, steps=2)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    with nullcontext() if IS_REAL else pretended_gpu():
        yield
    torch.backends.cudnn.deterministic = before


@pytest.fixture
def images(gpu: None) -> Images:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=draws, dtype=torch.uint8)
    return Images(pixels.cuda(), (torch.arange(IMAGES) % 10).cuda())


class Dropping(nn.Sequential):
    """A small network that draws random numbers of the device."""

    def __init__(self) -> None:
        layers = [nn.Linear(3 * 32 * 32, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10)]
        super().__init__(nn.Flatten(), *layers)


NETWORKS = WHOLE if IS_REAL else [*TINY, Dropping]


def training_of(
    network: dict[str, Any] | Callable[[], nn.Module],
    images: Images,
    kind: str = "endpoint",
    seed: int = 1,
    **more: Any,
) -> Training:
    torch.manual_seed(seed)
    if isinstance(network, dict):
        model, other = (build(network, classes=10, channels=3) for _ in "ab")
    else:
        model, other = (Model(network(), torch.zeros(3, 1, 1), torch.ones(3, 1, 1)) for _ in "ab")
    model, other = (m.to(torch.device("cuda")) for m in (model, other))
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
        training._recorded_step = training._step
    (progress,) = fit_together([training])
    assert isinstance(progress, Progress)
    return progress


def assert_the_same_bits(actual: Progress | Diverged, expected: Progress) -> None:
    assert isinstance(actual, Progress)
    assert torch.equal(actual.trainable, expected.trainable)
    assert_same(actual.optimiser, expected.optimiser)
    assert_same(actual.buffers, expected.buffers)
    assert actual.history == expected.history


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind, attack", [("endpoint", None), ("curve", None), ("endpoint", ATTACK)])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_steps_recorded_as_graphs_give_the_bits_of_ordinary_steps(
    network: Any, kind: str, attack: Any, precision: str, images: Images
) -> None:
    make = partial(training_of, network, images, kind, attack=attack, regime=replace(REGIME, precision=precision))
    training = make()
    actual = trained(training)
    recorder = training._recorded_step
    assert recorder.recordable and len(recorder.graphs) == 2, "a full batch and the last one, of 4 images"
    assert_the_same_bits(actual, trained(make(), graphs=False))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_simultaneous_trainings_give_the_bits_they_give_alone(network: Any, images: Images) -> None:
    together = fit_together([training_of(network, images, seed=seed) for seed in range(6 if IS_REAL else 2)])
    for seed, actual in enumerate(together):
        assert_the_same_bits(actual, trained(training_of(network, images, seed=seed)))


@pytest.mark.parametrize("kind", ["endpoint", "curve"])
def test_steps_of_adamw_with_clipping_and_warm_up_are_recorded(kind: str, images: Images) -> None:
    regime = replace(REGIME, optimiser=adamw(), clip=0.5, warm_up=1.5, schedule_by="step", schedule=cosine)
    make = partial(training_of, Dropping, images, kind, regime=regime)
    training = make()
    actual = trained(training)
    recorder = training._recorded_step
    assert recorder.recordable and len(recorder.graphs) == 2
    assert_the_same_bits(actual, trained(make(), graphs=False))


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
    "network, why", [(Counting, "`calls`"), (Reading, "synchronizing"), (Skipping, "generator of the CPU")]
)
def test_networks_that_a_graph_cannot_repeat_are_not_recorded(
    network: type[nn.Module], why: str, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    training = training_of(network, images)
    with caplog.at_level("INFO", logger=cuda_graphs.__name__):
        trained(training)
    assert not training._recorded_step.recordable
    assert why in caplog.text
