"""Two processes that train together do what one process does with the same batches."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks, started
from tiny import assert_close, assert_same, perceptron, pictures, plain, randomised, small, unnormalised
from torch import Tensor, nn
from torch.nn import functional

from neuralign.common.errors import UserError
from neuralign.common.seeding import PartGenerator, stream, uniform
from neuralign.curves.curve import Curve, straight_line
from neuralign.curves.families.bezier import bezier
from neuralign.networks.model import Model
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import split_trainable
from neuralign.training.attacks.pgd import pgd
from neuralign.training.augmentation import pipeline
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.distributed.batch_norm import synchronised
from neuralign.training.distributed.processes import ALONE, RENDEZVOUS, Part, Processes, joined
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Progress, Regime
from neuralign.training.schedules.halving import halving

# 11 images: batches of 4, 4 and 3, the last with parts of 1 and 2
REGIME = Regime(
    epochs=2, batch_size=4, lr=0.05, momentum=0.9, weight_decay=0.01, schedule=partial(halving, every=2, drift=0.99)
)
ATTACK = partial(pgd, eps=8 / 255, step=2 / 255, steps=2)
AUGMENT = [{"use": "crop"}, {"use": "flip"}]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two processes."""
    with started(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Three processes."""
    with started(3, tmp_path_factory.mktemp("three")) as ranks:
        yield ranks


def network(name: str) -> Model:
    """A network in float64 that draws no random numbers, by name."""
    model = perceptron(16) if name == "perceptron" else small(name)
    for layer in model.network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


def endpoint(
    processes: Processes,
    name: str = "tinyten",
    regime: Regime = REGIME,
    *,
    count: int = 11,
    attack: Any = None,
    augment: list[Any] = AUGMENT,
    dtype: torch.dtype = torch.float64,
    folder: Path | None = None,
    stop: int | None = None,
) -> Progress:
    """An endpoint, trained to its end, or interrupted after `stop` steps; its checkpoint is in `folder`."""
    model = network(name)
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in randomised(model.network).items()}
    model = Model(model.network.to(dtype), model.mean.to(dtype), model.std.to(dtype))
    start, buffers = split_trainable(model, state)
    layout = FlatLayout.of(start)
    training = Training(
        model,
        layout.flatten(start),
        lambda weights, _: weights,
        layout,
        buffers,
        pictures(count),
        regime,
        transform=pipeline(augment),
        attack=attack,
        seed=1,
        keeper=Checkpoint(folder, every=0) if folder else None,
        processes=processes,
    )
    if stop is None:
        return fit(training)
    steps = training.steps()
    for _ in range(stop):
        next(steps)
    return training.progress


def bend(processes: Processes, attack: Any = None) -> Progress:
    """A Bezier curve of one bend."""
    model = network("tinyten")
    (start, buffers), (end, _) = (split_trainable(model, randomised(model.network, seed)) for seed in (1, 2))
    layout = FlatLayout.of(start)
    line = straight_line(bezier, layout.flatten(start), layout.flatten(end))

    def sample(bends: Tensor, weights: Tensor) -> Tensor:
        return Curve(bezier, line.ends, bends).at(weights)

    return fit(
        Training(
            *(model, line.bends, sample, layout, buffers, pictures(11), REGIME),
            transform=plain,
            basis=bezier,
            attack=attack,
            seed=1,
            processes=processes,
        )
    )


def assert_equal(actual: Progress, expected: Progress, tolerance: float) -> None:
    """The same weights, optimiser, buffers and history, within a relative and absolute tolerance."""
    assert_close(tensors(actual), tensors(expected), tolerance)
    assert (actual.epoch, actual.step) == (expected.epoch, expected.step)
    for row, other in zip(actual.history, expected.history, strict=True):
        assert row == pytest.approx(other, rel=tolerance)


def tensors(progress: Progress) -> dict[str, Tensor]:
    return {"trainable": progress.trainable, **progress.optimiser, **progress.buffers}


# equality with one process


@pytest.mark.parametrize("name", ["tinyten", "resnet", "googlenet", "vit"])
def test_an_endpoint_is_that_of_one_process(two: Ranks, name: str) -> None:
    first, second = two.run(endpoint, name)
    assert_equal(first, endpoint(ALONE, name), 1e-10)
    assert_same(tensors(second), tensors(first))
    assert second.history == first.history


def test_an_endpoint_of_three_processes_is_that_of_one(three: Ranks) -> None:
    assert_equal(three.run(endpoint)[2], endpoint(ALONE), 1e-10)


@pytest.mark.parametrize("size", [3, 6, 7, 9, 11, 12])  # last batches of 2, 5, 4, 2, 11 and 11
def test_batches_of_any_size_are_those_of_one_process(two: Ranks, size: int) -> None:
    regime = replace(REGIME, batch_size=size)
    assert_equal(two.run(endpoint, "perceptron", regime)[0], endpoint(ALONE, "perceptron", regime), 1e-10)


def test_a_batch_with_fewer_images_than_processes_is_that_of_one_process(two: Ranks) -> None:
    regime = replace(REGIME, epochs=1, batch_size=5)  # 5, 5 and 1
    assert_equal(two.run(endpoint, "tinyten", regime)[0], endpoint(ALONE, "tinyten", regime), 1e-10)


def test_an_attacked_endpoint_is_that_of_one_process(two: Ranks) -> None:
    regime = replace(REGIME, epochs=1)
    first, second = two.run(partial(endpoint, attack=ATTACK), "tinyten", regime)
    assert_equal(first, endpoint(ALONE, "tinyten", regime, attack=ATTACK), 1e-10)
    assert_same(tensors(second), tensors(first))


def test_in_float32_the_difference_is_rounding(two: Ranks) -> None:
    first, _ = two.run(partial(endpoint, dtype=torch.float32), "tinyten")
    assert_equal(first, endpoint(ALONE, "tinyten", dtype=torch.float32), 1e-4)


@pytest.mark.parametrize("attack", [None, ATTACK], ids=["clean", "attacked"])
def test_a_curve_is_that_of_one_process(two: Ranks, attack: Any) -> None:
    first, second = two.run(bend, attack)
    assert_equal(first, bend(ALONE, attack), 1e-10)
    assert_same(tensors(second), tensors(first))
