"""Optimisers against those of PyTorch: AdamW, clipping, rates that change by steps; resumed trainings; the config."""

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_configs import SMALL, changed
from test_training import Fragile, Interrupted, assert_the_same_bits, bend, curve_problem, train, trained_state
from tiny import assert_close, perceptron, pictures, plain, randomised, unnormalised
from torch import Tensor, nn

from neuralign.common.files import PACKAGE
from neuralign.common.seeding import stream
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State, criterion
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.optimiser import SGD, clip_
from neuralign.training.optimisers.adamw import adamw
from neuralign.training.progress import Regime
from neuralign.training.schedules.constant import constant
from neuralign.training.schedules.cosine import cosine
from neuralign.training.schedules.halving import halving
from neuralign.workflow import graph  # noqa: F401 (it registers all rules)
from neuralign.workflow.job import describe

OPTIMISER = "regimes.standard.endpoint.optimiser"
ADAMW = Regime(
    epochs=4, batch_size=5, lr=0.01, momentum=0.9, weight_decay=0.1, schedule=cosine, optimiser=adamw(), clip=1.0
)
BY_STEP = replace(ADAMW, schedule_by="step", warm_up=1.5, schedule=partial(cosine, floor=0.1))
REGIMES = {
    "AdamW": replace(ADAMW, clip=None),
    "without decay": replace(ADAMW, weight_decay=0.0),
    "clipped": ADAMW,
    "other options": replace(ADAMW, optimiser=adamw(beta1=0.5, beta2=0.9, eps=1e-3)),
    "by step, with warm-up": BY_STEP,
    "clipped SGD": replace(BY_STEP, optimiser=None),
}


def torch_optimiser(network: nn.Module, regime: Regime) -> torch.optim.Optimizer:
    mine, decay = regime.optimiser, regime.weight_decay
    if mine is None:
        options: dict[str, Any] = {"momentum": regime.momentum, "nesterov": regime.nesterov}
        return torch.optim.SGD(network.parameters(), weight_decay=decay, **options)
    betas = mine.beta1, mine.beta2  # type: ignore[attr-defined]
    return torch.optim.AdamW(network.parameters(), betas=betas, eps=mine.eps, weight_decay=decay)  # type: ignore


def ordinary_training(model: Model, state: State, images: Images, regime: Regime) -> tuple[dict[str, Tensor], float]:
    """A plain loop with PyTorch's optimiser and clipping: the final state, and the largest norm of a gradient."""
    network, norms = copy.deepcopy(model.network).train(), []
    network.load_state_dict(dict(state))
    optimiser = torch_optimiser(network, regime)
    steps = -(-len(images) // regime.batch_size)
    for epoch in range(regime.epochs):
        draws = stream(1, "order", epoch), stream(1, "augmentation", epoch)
        for i, (x, y) in enumerate(images.shuffled(regime.batch_size, plain, *draws)):
            optimiser.param_groups[0]["lr"] = regime.rate(epoch, i, steps)
            optimiser.zero_grad()
            criterion(network((x - model.mean) / model.std), y).backward()
            largest = float("inf") if regime.clip is None else regime.clip
            norms.append(nn.utils.clip_grad_norm_(network.parameters(), largest).item())
            optimiser.step()
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}, max(norms)


def smooth_perceptron() -> Model:
    """Without batch norm: AdamW makes steps of rounding errors where a bias before such a norm has no gradient."""
    torch.manual_seed(0)
    return unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 5)))


@pytest.mark.parametrize("name", REGIMES)
def test_an_endpoint_is_trained_as_by_torch(name: str) -> None:
    model, images, regime = smooth_perceptron(), pictures(12, side=8), REGIMES[name]
    state = randomised(model.network)
    expected, largest = ordinary_training(model, state, images, regime)
    assert regime.clip is None or largest > regime.clip, "the test would not show clipping"
    assert_close(trained_state(train(model, state, images, regime), model, state), expected, 1e-10)


def test_adamw_minimises_a_badly_scaled_valley_as_torch_does() -> None:
    scales = torch.tensor([1.0, 100.0, 1e4], dtype=torch.float64)
    mine, reference = torch.ones(3, dtype=torch.float64), nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimiser, lr = adamw(), torch.tensor(0.02, dtype=torch.float64)
    state, judge = optimiser.initial_state(mine), torch.optim.AdamW([reference], lr=0.02, weight_decay=0.0)
    for _ in range(300):
        optimiser.step(mine, state, scales * mine, lr)
        judge.zero_grad()
        (scales * reference**2 / 2).sum().backward()
        judge.step()
    torch.testing.assert_close(mine, reference.detach(), rtol=1e-9, atol=1e-12)
    assert mine.abs().max() < 0.05 and state["steps"] == 300


def test_the_first_step_of_adamw_has_the_length_of_the_learning_rate_and_leaves_what_has_no_gradient() -> None:
    weights, optimiser = torch.zeros(4), adamw()
    optimiser.step(weights, optimiser.initial_state(weights), torch.tensor([3.0, -1e-3, 1e3, 0.0]), torch.tensor(0.1))
    torch.testing.assert_close(weights, torch.tensor([-0.1, 0.1, -0.1, 0.0]), rtol=1e-4, atol=0)


def test_on_a_curve_the_decoupled_decay_is_the_slope_of_the_penalty(tinyten: Model, images: Images) -> None:
    """One step with a gradient of nearly zero length for AdamW, so that only the decay moves the bend."""
    ends, buffers, layout = curve_problem(tinyten)
    regime = replace(ADAMW, epochs=1, batch_size=100, lr=1.0, schedule=constant, clip=None)
    still = replace(regime, optimiser=adamw(eps=1e12))
    progress = bend(tinyten, ends, buffers, layout, images, still)
    t = torch.rand(1, generator=stream(1, "t", 0), dtype=torch.float64).item()
    middle = (ends[0] + ends[1]) / 2
    theta = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * middle + t**2 * ends[1]
    slope = 2 * t * (1 - t) * 0.1 * theta
    torch.testing.assert_close(progress.trainable[0], middle - slope, rtol=1e-9, atol=1e-9)
    assert slope.abs().max() > 1e-3


# clipping


@pytest.mark.parametrize("size", [0.5, 1.0, 20.0])
def test_a_gradient_is_scaled_to_the_largest_norm_if_it_is_longer(size: float) -> None:
    gradient = torch.full((4,), size / 2)
    expected = gradient * min(1.0, 2.0 / size)
    clip_(gradient, 2.0)
    torch.testing.assert_close(gradient, expected)
    if size < 2:
        assert torch.equal(gradient, expected)


def test_clipping_does_not_limit_the_weight_decay(images: Images) -> None:
    model = perceptron(16)
    state = randomised(model.network)
    regime = Regime(1, 100, 1.0, 0.0, 0.01, constant, nesterov=False, clip=1e-9)
    after = trained_state(train(model, state, images, regime), model, state)
    torch.testing.assert_close(after["1.weight"], 0.99 * state["1.weight"], rtol=0, atol=1e-8)


# learning rates


def test_a_rate_by_epoch_is_that_of_the_schedule_at_every_step() -> None:
    regime = Regime(4, 5, 0.05, 0.9, 0.0, partial(halving, every=2))
    assert [regime.rate(3, step, 7) for step in range(7)] == [0.05 * halving(3, 4, every=2)] * 7


def test_a_rate_by_step_follows_the_schedule_within_epochs() -> None:
    regime = replace(ADAMW, epochs=2, lr=2.0, schedule_by="step")
    rates = [regime.rate(epoch, step, 2) for epoch in range(2) for step in range(2)]
    assert rates == pytest.approx([1 + cos(pi * part) for part in (1 / 8, 3 / 8, 5 / 8, 7 / 8)])


def test_the_rate_grows_by_steps_while_it_warms_up_whatever_the_schedule() -> None:
    regime = replace(ADAMW, epochs=9, lr=3.0, schedule=constant, warm_up=1.5)
    rates = [regime.rate(epoch, step, 2) for epoch in range(3) for step in range(2)]
    assert rates == pytest.approx([0.5, 1.5, 2.5, 3.0, 3.0, 3.0])


def test_cosine_falls_from_one_to_its_floor() -> None:
    assert [cosine(epoch, 4) for epoch in range(5)] == pytest.approx([1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5, 0])
    assert cosine(2, 4, floor=0.2) == pytest.approx(0.6) and cosine(4, 4, floor=0.2) == pytest.approx(0.2)


def test_the_history_has_the_rate_of_the_last_step_of_each_epoch() -> None:
    model, images = perceptron(), pictures(12, side=8)
    history = train(model, randomised(model.network), images, BY_STEP).history
    assert [row["lr"] for row in history] == [BY_STEP.rate(epoch, 2, 3) for epoch in range(4)]


# resuming


@pytest.mark.parametrize("epoch, step", [(0, 1), (0, 3), (1, 0), (2, 2)])
def test_a_resumed_training_gives_the_same_bits(images: Images, tmp_path: Path, epoch: int, step: int) -> None:
    model = perceptron(16, dropout=0.5)
    state = randomised(model.network)
    uninterrupted = train(model, state, images, BY_STEP)
    with pytest.raises(Interrupted):
        train(model, state, images, BY_STEP, keeper=Fragile(tmp_path, epoch, step))
    keeper = Checkpoint(tmp_path, every=0)
    assert_the_same_bits(train(model, state, images, BY_STEP, keeper=keeper), uninterrupted)
    assert uninterrupted.optimiser.keys() == {"mean", "square", "steps"}
    assert uninterrupted.optimiser["steps"] == 12


def test_a_resumed_curve_gives_the_same_bits(images: Images, tmp_path: Path) -> None:
    model = perceptron(16)
    problem = curve_problem(model)
    uninterrupted = bend(model, *problem, images, BY_STEP)
    with pytest.raises(Interrupted):
        bend(model, *problem, images, BY_STEP, keeper=Fragile(tmp_path, 2, 1))
    assert_the_same_bits(bend(model, *problem, images, BY_STEP, keeper=Checkpoint(tmp_path, every=0)), uninterrupted)


KILLED = """
import os, signal, sys
import torch
from test_optimisers import BY_STEP
from test_training import train
from tiny import perceptron, pictures, randomised
from neuralign.training.checkpoints import Checkpoint

class Killed(Checkpoint):
    def keep(self, progress):
        super().keep(progress)
        if (progress.epoch, progress.step) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)

model = perceptron(16, dropout=0.5)
train(model, randomised(model.network), pictures(), BY_STEP, keeper=Killed(sys.argv[1], every=0))
"""


def test_a_training_whose_process_was_killed_gives_the_same_bits(images: Images, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=environment).returncode == -signal.SIGKILL
    model = perceptron(16, dropout=0.5)
    state, keeper = randomised(model.network), Checkpoint(tmp_path, every=inf)
    resumed = train(model, state, images, BY_STEP, keeper=keeper)
    assert keeper.path.exists()
    assert_the_same_bits(resumed, train(model, state, images, BY_STEP))


def test_a_checkpoint_of_another_optimiser_is_not_used(
    images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = perceptron(16)
    state = randomised(model.network)
    with pytest.raises(Interrupted):
        train(model, state, images, ADAMW, keeper=Fragile(tmp_path, 1))
    sgd = replace(ADAMW, optimiser=None)
    actual = train(model, state, images, sgd, keeper=Checkpoint(tmp_path, every=0))
    assert "its tensors have other names, shapes or types than this training's" in caplog.text
    assert_the_same_bits(actual, train(model, state, images, sgd))


# the config


def test_a_regime_has_the_optimiser_of_its_entry() -> None:
    entry: dict[str, Any] = {"epochs": 4, "batch_size": 8, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    entry["schedule"] = {"use": "cosine", "floor": 0.5}
    assert Regime.of(entry).optimiser is None
    regime = Regime.of(entry | {"optimiser": {"use": "adamw", "beta2": 0.99}, "clip": 2.0})
    assert regime.optimiser == adamw(beta2=0.99) and regime.clip == 2 and regime.schedule(4, 4) == 0.5
    assert SGD(0.9, True).initial_state(torch.ones(2)).keys() == {"velocity"}


def test_an_entry_is_filled_with_the_defaults_of_its_optimiser() -> None:
    catalogue = Catalogue(changed(OPTIMISER, {"use": "adamw", "eps": 1e-6}))
    regime = catalogue.entry("regimes", "standard")
    assert regime["endpoint"]["optimiser"] == {"use": "adamw", "beta1": 0.9, "beta2": 0.999, "eps": 1e-6}
    assert regime["curve"]["optimiser"] is None and regime["curve"]["schedule_by"] == "epoch"


@pytest.mark.parametrize("key, value", [("momentum", 0.8), ("nesterov", False)])
def test_settings_of_sgd_beside_another_optimiser_are_refused(key: str, value: Any) -> None:
    config = changed(OPTIMISER, {"use": "adamw"})
    config["regimes"]["standard"]["endpoint"][key] = value
    message = f"endpoint.{key}: found {value}, a setting of the optimiser that `optimiser` replaces; remove one$"
    with pytest.raises(ConfigError, match=message):
        Catalogue(config)


def test_a_job_depends_on_the_code_of_its_optimiser() -> None:
    place = {"dataset": "digits", "network": "tinyten", "regime": "standard", "seed": "1"}
    entry = {"use": "adamw", "eps": 1e-6}
    jobs = [describe(Catalogue(c), "train_endpoint", place) for c in (SMALL, changed(OPTIMISER, entry))]
    assert [("optimisers", "adamw") in job.plugins for job in jobs] == [False, True]
    assert jobs[1].settings["training"]["optimiser"]["eps"] == 1e-6


def test_a_step_of_adamw_does_not_import_the_compiler_of_torch() -> None:
    code = (
        "import sys, torch; from neuralign.training.optimisers.adamw import adamw; weights = torch.ones(2)\n"
        "adamw().step(weights, adamw().initial_state(weights), torch.ones(2), torch.tensor(0.1))\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(PACKAGE.parent)})


def test_the_network_that_adamw_trains_learns(images: Images) -> None:
    model = perceptron(16)
    history = train(model, randomised(model.network), images, replace(BY_STEP, epochs=20)).history
    assert history[-1]["loss"] < history[0]["loss"] / 2
