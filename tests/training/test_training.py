"""The training loop: SGD on endpoints, the paper's objective on curves, and equal bits in every run."""

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count as counted
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import assert_close, assert_same, perceptron, pictures, plain, randomised, small
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.curves.curve import Curve, straight_line
from neuralign.curves.families.bezier import bezier
from neuralign.datasets import batches
from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model, State, criterion, logits
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import split_trainable
from neuralign.training.attacks.pgd import pgd
from neuralign.training.augmentation import pipeline
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.cuda_graphs import side_streams
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Attack, Diverged, Progress, Regime
from neuralign.training.schedules.constant import constant
from neuralign.training.schedules.halving import halving
from neuralign.training.simultaneous import fit_together, train_together

REGIME = Regime(
    epochs=4, batch_size=5, lr=0.05, momentum=0.9, weight_decay=0.01, schedule=partial(halving, every=2, drift=0.99)
)
ONE_STEP = replace(REGIME, epochs=1, batch_size=100, lr=1.0, momentum=0.0, nesterov=False, schedule=constant)


def train(model: Model, state: State, images: Images, regime: Regime = REGIME, **options: Any) -> Progress:
    """An endpoint trained from `state`."""
    start, buffers = split_trainable(model, dict(state))
    layout = FlatLayout.of(start)
    options = {"transform": plain, "seed": 1} | options
    return fit(Training(model, layout.flatten(start), lambda w, t: w, layout, buffers, images, regime, **options))


def bend(
    model: Model,
    ends: tuple[Tensor, Tensor],
    buffers: State,
    layout: FlatLayout,
    images: Images,
    regime: Regime,
    **more: Any,
) -> Progress:
    """A Bezier curve of one bend, trained from the straight line."""
    line = straight_line(bezier, *ends)
    options = {"transform": plain, "seed": 1, "basis": bezier} | more

    def sample(bends: Tensor, weights: Tensor) -> Tensor:
        return Curve(bezier, line.ends, bends).at(weights)

    return fit(Training(model, line.bends, sample, layout, buffers, images, regime, **options))


def trained_state(progress: Progress, model: Model, state: State) -> dict[str, Tensor]:
    return {**FlatLayout.of(split_trainable(model, dict(state))[0]).views(progress.trainable), **progress.buffers}


def ordinary_training(
    model: Model, state: State, images: Images, regime: Regime, seed: int = 1
) -> tuple[dict[str, Tensor], list[float]]:
    """A plain loop with PyTorch's optimiser, for comparison: the final state, and the loss of every epoch."""
    network = copy.deepcopy(model.network)
    network.load_state_dict(dict(state))
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=regime.lr,
        momentum=regime.momentum,
        nesterov=regime.nesterov,
        weight_decay=regime.weight_decay,
    )
    losses = []
    for epoch in range(regime.epochs):
        optimizer.param_groups[0]["lr"] = regime.lr * regime.schedule(epoch, regime.epochs)
        total = 0.0
        for x, y in images.shuffled(
            regime.batch_size, plain, stream(seed, "order", epoch), stream(seed, "augmentation", epoch)
        ):
            optimizer.zero_grad()
            loss = criterion(network((x - model.mean) / model.std), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        losses.append(total / len(images))
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}, losses


def without_dropout(model: Model) -> Model:
    for layer in model.network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return model


# endpoints: plain SGD


def test_one_epoch_of_every_network_is_plain_sgd(model: Model, images: Images) -> None:
    model, regime = without_dropout(model), replace(REGIME, epochs=1, batch_size=6)
    state = randomised(model.network)
    progress = train(model, state, images, regime)
    expected, losses = ordinary_training(model, state, images, regime)
    assert_close(trained_state(progress, model, state), expected, 1e-9)
    assert progress.history[0]["loss"] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("momentum, nesterov", [(0.9, True), (0.9, False), (0.0, False)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_an_endpoint_is_plain_sgd_over_several_epochs(
    tinyten: Model, images: Images, momentum: float, nesterov: bool, weight_decay: float
) -> None:
    regime = replace(REGIME, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    state = randomised(tinyten.network)
    progress = train(tinyten, state, images, regime)
    expected, losses = ordinary_training(tinyten, state, images, regime)
    assert_close(trained_state(progress, tinyten, state), expected, 1e-11)
    assert [row["loss"] for row in progress.history] == pytest.approx(losses, rel=1e-6)


def test_training_learns(tinyten: Model) -> None:
    state = randomised(tinyten.network)
    history = train(tinyten, state, pictures(10), replace(REGIME, epochs=12, schedule=constant)).history
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["accuracy"] > history[0]["accuracy"]


def test_training_does_not_change_its_arguments(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    before = {name: tensor.clone() for name, tensor in state.items()}
    pixels = images.pixels.clone()
    network_before = {name: tensor.clone() for name, tensor in tinyten.network.state_dict().items()}
    train(tinyten, state, images)
    assert_same(state, before)
    assert_same(tinyten.network.state_dict(), network_before)
    assert torch.equal(images.pixels, pixels)
    weights, buffers = split_trainable(tinyten, state)
    layout = FlatLayout.of(weights)
    flat = layout.flatten(weights)
    fit(Training(tinyten, flat, lambda w, t: w, layout, buffers, images, REGIME, transform=plain, seed=1))
    assert torch.equal(flat, layout.flatten(weights))


def test_every_epoch_has_another_order_and_another_augmentation(images: Images) -> None:
    model, seen = perceptron(16), []

    def watch(pixels: Tensor, draws: torch.Generator) -> Tensor:
        seen.append((pixels[0, :, ::5, ::5].flatten().tolist(), torch.rand((), generator=draws).item()))
        return as_float(pixels)

    train(model, randomised(model.network), images, replace(REGIME, batch_size=100), transform=watch)
    firsts, draws = zip(*seen, strict=True)
    assert len(set(draws)) == 4
    assert len(set(map(tuple, firsts))) > 1


# curves


def curve_problem(model: Model) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor], FlatLayout]:
    (start, buffers), (end, _) = (split_trainable(model, randomised(model.network, seed)) for seed in (1, 2))
    layout = FlatLayout.of(start)
    return (layout.flatten(start), layout.flatten(end)), buffers, layout


def first_t(seed: int = 1) -> float:
    return torch.rand(1, generator=stream(seed, "t", 0), dtype=torch.float64).item()


def test_the_gradient_of_a_bend_is_that_of_the_paper(tinyten: Model, images: Images) -> None:
    ends, buffers, layout = curve_problem(tinyten)
    progress = bend(tinyten, ends, buffers, layout, images, ONE_STEP)
    middle, t = (ends[0] + ends[1]) / 2, first_t()
    theta = ((1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * middle + t**2 * ends[1]).requires_grad_()
    tinyten.network.train()
    fresh = {name: buffer.clone() for name, buffer in buffers.items()}
    loss = criterion(tinyten({**layout.views(theta), **fresh}, as_float(images.pixels)), images.labels)
    (slope,) = torch.autograd.grad(loss, theta)
    gradient = 2 * t * (1 - t) * (slope + ONE_STEP.weight_decay * theta.detach())
    torch.testing.assert_close(middle - progress.trainable[0], gradient, rtol=1e-9, atol=1e-11)
    assert progress.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert progress.history[0]["penalty"] == pytest.approx(ONE_STEP.weight_decay / 2 * theta.square().sum().item())
    assert_close(progress.buffers, fresh)


def test_every_batch_has_another_t(images: Images) -> None:
    model = perceptron(16)
    ends, buffers, layout = curve_problem(model)
    line, seen = straight_line(bezier, *ends), []

    def sample(bends: Tensor, weights: Tensor) -> Tensor:
        seen.append(weights)
        return Curve(bezier, line.ends, bends).at(weights)

    fit(Training(model, line.bends, sample, layout, buffers, images, REGIME, transform=plain, basis=bezier, seed=1))
    ts = [1 - weights[0].sqrt().item() for weights in seen]  # the first weight is (1 - t)^2
    assert len(set(ts)) == len(ts) == REGIME.epochs * 3
    assert all(0 <= t < 1 for t in ts)
    assert ts[:3] == pytest.approx(torch.rand(3, generator=stream(1, "t", 0), dtype=torch.float64).tolist())


def test_the_penalty_of_an_endpoint_is_half_the_decay_times_the_squared_norm(images: Images) -> None:
    model = perceptron(16)
    state = randomised(model.network)
    (row,) = train(model, state, images, ONE_STEP).history
    squares = sum(tensor.square().sum().item() for tensor in split_trainable(model, state)[0].values())
    assert row["penalty"] == pytest.approx(0.005 * squares)


# attacks


def test_a_robust_step_is_an_ordinary_step_on_the_attacked_pixels(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    attacked = train(tinyten, state, images, ONE_STEP, attack=lambda predict, x, y, noise: 1 - x)
    ordinary = train(tinyten, state, Images(255 - images.pixels, images.labels), ONE_STEP)
    assert_close(trained_state(attacked, tinyten, state), trained_state(ordinary, tinyten, state), 1e-5)


def test_an_attack_that_only_runs_the_network_changes_no_bit(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)

    def look(predict: Callable, x: Tensor, y: Tensor, noise: torch.Generator) -> Tensor:
        predict(1 - x)
        return x

    with_attack, without = (train(tinyten, state, images, attack=attack) for attack in (look, None))
    assert torch.equal(with_attack.trainable, without.trainable)
    assert_same(with_attack.buffers, without.buffers)


def test_an_attack_begins_every_step_with_the_buffers_of_the_training(tinyten: Model, images: Images) -> None:
    seen = []

    def look(predict: Callable, x: Tensor, y: Tensor, noise: torch.Generator) -> Tensor:
        seen.append({name: tinyten.network.get_buffer(name).clone() for name in stored})
        predict(1 - x)
        return x

    start, stored = split_trainable(tinyten, randomised(tinyten.network))
    layout, regime = FlatLayout.of(start), replace(ONE_STEP, batch_size=len(images) // 4)
    training = Training(
        tinyten,
        layout.flatten(start),
        lambda w, t: w,
        layout,
        stored,
        images,
        regime,
        transform=plain,
        attack=look,
        seed=1,
    )
    expected = [dict(stored)]
    for _ in training.steps():
        expected.append({name: buffer.clone() for name, buffer in training.progress.buffers.items()})
    assert len(seen) >= 4 and not torch.equal(
        seen[1]["features.bn1.running_mean"], seen[0]["features.bn1.running_mean"]
    )
    for actual, buffers in zip(seen, expected, strict=False):
        assert_same(actual, buffers)


def test_an_attack_sees_the_weights_of_this_step_with_batch_statistics(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    seen = []

    def look(predict: Callable, x: Tensor, y: Tensor, noise: torch.Generator) -> Tensor:
        seen.append(predict(x))
        return x

    train(tinyten, state, images, ONE_STEP, attack=look)
    tinyten.network.train()
    order = torch.randperm(len(images), generator=stream(1, "order", 0))
    expected = tinyten({name: t.clone() for name, t in state.items()}, as_float(images.pixels[order]))
    torch.testing.assert_close(seen[0], expected)


# divergence


def spoilt_from(epoch: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """A transform that returns NaN from the second step of `epoch` on."""
    calls = []

    def transform(pixels: Tensor, draws: torch.Generator) -> Tensor:
        calls.append(len(pixels))
        images = as_float(pixels)
        if len(calls) >= epoch:
            images[REGIME.batch_size :] = float("nan")
        return images

    return transform


def test_a_loss_that_is_not_finite_stops_training_and_says_where(tinyten: Model, images: Images) -> None:
    with pytest.raises(Diverged) as error:
        train(
            tinyten, randomised(tinyten.network), images, replace(REGIME, schedule=constant), transform=spoilt_from(3)
        )
    assert str(error.value) == (
        "the loss is not finite in epoch 3, step 2 of 3, at learning rate 0.05: "
        "lower `lr` of this regime, or look for non-finite weights in the networks that it starts from"
    )


def test_weights_that_are_not_finite_stop_training_in_the_first_step(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    state["fc.weight"][0, 0] = float("nan")
    with pytest.raises(Diverged, match="not finite in epoch 1, step 1 of 3, at learning rate 0.05"):
        train(tinyten, state, images)


def test_weights_that_become_non_finite_in_the_last_step_are_refused(images: Images) -> None:
    model = perceptron(16)
    with pytest.raises(Diverged, match="^weights are not finite in epoch 1, step 1 of 1"):
        train(model, randomised(model.network), images, replace(ONE_STEP, lr=float("inf")))


def test_a_penalty_that_is_not_finite_is_not_called_a_loss(images: Images) -> None:
    model = perceptron(16)
    model.network.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    state = randomised(model.network) | {"unused": torch.tensor([1e200], dtype=torch.float64)}  # its square is infinite
    with pytest.raises(Diverged, match="^the penalty is not finite in epoch 1, step 1 of 1"):
        train(model, state, images, ONE_STEP)


def test_a_diverged_step_is_not_saved_in_the_checkpoint(images: Images, tmp_path: Path) -> None:
    model, spoil = perceptron(16), spoilt_from(3)
    keeper = Checkpoint(tmp_path, every=0)
    with pytest.raises(Diverged, match="epoch 3, step 2 of 3"):
        train(model, randomised(model.network), images, transform=spoil, keeper=keeper)
    with safe_open(keeper.path, "pt") as file:
        kept = json.loads(file.metadata()["progress"])
    assert (kept["epoch"], kept["step"]) == (2, 1)
    with pytest.raises(Diverged, match="epoch 3, step 2 of 3"):  # a resumed training says the same
        train(model, randomised(model.network), images, transform=spoil, keeper=keeper)


# shapes


def batches_seen_by(model: Model) -> list[int]:
    """A list to which every call of the network appends its number of images."""
    seen: list[int] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_the_last_batch_may_be_smaller_and_counts_by_its_images(tinyten: Model) -> None:
    seen = batches_seen_by(tinyten)
    images = pictures(11)
    regime = replace(REGIME, epochs=1, batch_size=4, lr=1e-300, momentum=0.0, nesterov=False)
    state = randomised(tinyten.network)
    (row,) = train(tinyten, state, images, regime).history
    assert seen == [4, 4, 3]
    tinyten.network.train()
    losses, right = [], 0
    for index in torch.randperm(11, generator=stream(1, "order", 0)).split(4):
        outputs = tinyten({n: t.clone() for n, t in state.items()}, as_float(images.pixels[index]))
        losses += [criterion(outputs, images.labels[index]).item()] * len(index)
        right += (logits(outputs).argmax(1) == images.labels[index]).sum().item()
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert row["accuracy"] == pytest.approx(100 * right / 11)


def test_the_history_has_a_row_for_every_epoch(tinyten: Model, images: Images) -> None:
    history = train(tinyten, randomised(tinyten.network), images).history
    assert [list(row) for row in history] == [["epoch", "lr", "loss", "penalty", "accuracy"]] * 4
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["lr"] for row in history] == pytest.approx(
        [0.05, 0.05 * 0.99, 0.05 * 0.5 * 0.99**2, 0.05 * 0.5 * 0.99**3]
    )


@pytest.mark.parametrize("count, batch_size", [(1, 1), (1, 64), (7, 7), (7, 64)])
def test_one_image_or_one_batch_is_enough(tinyten: Model, count: int, batch_size: int) -> None:
    progress = train(tinyten, randomised(tinyten.network), pictures(count), replace(REGIME, batch_size=batch_size))
    assert progress.epoch == 4
    assert torch.isfinite(progress.trainable).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_and_buffers_stay_float32_in_every_precision(images: Images, precision: str) -> None:
    torch.manual_seed(0)
    model = small("tinyten")
    model = Model(model.network.float(), model.mean.float(), model.std.float())
    progress = train(model, randomised(model.network), images, replace(REGIME, precision=precision))
    assert progress.trainable.dtype == progress.optimiser["velocity"].dtype == torch.float32
    assert all(b.dtype == torch.float32 for b in progress.buffers.values() if b.is_floating_point())
    assert torch.isfinite(progress.trainable).all()


# the same bits

FULL = {"transform": pipeline([{"use": "crop"}, {"use": "flip"}]), "attack": partial(pgd, eps=0.03, step=0.01, steps=2)}
VARIANTS: dict[str, Mapping[str, Any]] = {
    "plain": {},
    "augmented": {"transform": FULL["transform"]},
    "attacked": {"attack": FULL["attack"]},
    "both": FULL,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(images: Images, variant: str) -> None:
    model = perceptron(16, dropout=0.5)
    state, options = randomised(model.network), VARIANTS[variant]
    first = train(model, state, images, **options)
    torch.rand(17)  # other draws in the process do not matter
    second = train(model, state, images, **options)
    other = train(model, state, images, seed=2, **options)
    assert_the_same_bits(first, second)
    assert not torch.equal(first.trainable, other.trainable)


def test_dropout_differs_from_epoch_to_epoch_and_from_seed_to_seed(images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    still = replace(REGIME, lr=1e-300, batch_size=100, weight_decay=0.0)
    runs = [train(model, randomised(model.network), images, still, seed=seed) for seed in (1, 2)]
    losses = [row["loss"] for run in runs for row in run.history]
    assert len(set(losses)) == len(losses)


def test_training_leaves_the_global_random_numbers_alone(images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    train(model, randomised(model.network), images, **FULL)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


# several trainings in one process


def test_streams_wait_for_what_was_launched_before_and_are_waited_for_after(monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = str(name)

        def wait_stream(self, other: "Stream") -> None:
            events.append((self.name, other.name))

    created = iter("ab")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("outside"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(created)))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.name)
    with pytest.raises(Diverged), side_streams(torch.device("cuda"), 2) as blocks:
        assert blocks == ["a", "b"] and events == [("a", "outside"), ("b", "outside")]
        raise Diverged
    assert events[2:] == [("outside", "a"), ("outside", "b")]


def trainings_of(
    model: Model,
    images: Images,
    seeds: tuple[int, ...] = (1, 2, 3),
    regime: Regime = REGIME,
    keepers: Mapping[int, Any] | None = None,
    attack: Attack | None = None,
) -> list[Training]:
    """Trainings of endpoints from different initial weights, one for each seed."""
    trainings = []
    for seed in seeds:
        start, buffers = split_trainable(model, randomised(model.network, seed))
        layout, keeper = FlatLayout.of(start), (keepers or {}).get(seed)
        trainings.append(
            Training(
                *(model, layout.flatten(start), lambda w, _: w, layout, buffers, images, regime),
                **{"transform": FULL["transform"], "attack": attack, "seed": seed, "keeper": keeper},
            )
        )
    return trainings


def assert_the_same_bits(actual: Progress | Diverged, expected: Progress | Diverged) -> None:
    assert isinstance(actual, Progress) and isinstance(expected, Progress)
    assert torch.equal(actual.trainable, expected.trainable)
    assert_same(actual.optimiser, expected.optimiser)
    assert_same(actual.buffers, expected.buffers)
    assert actual.history == expected.history


@pytest.mark.parametrize("attack", [None, FULL["attack"]])
def test_models_trained_together_are_those_trained_alone(model: Model, images: Images, attack: Attack | None) -> None:
    regime = replace(REGIME, epochs=1, batch_size=6)
    together = fit_together(trainings_of(model, images, regime=regime, attack=attack))
    for seed, actual in zip((1, 2, 3), together, strict=True):
        assert_the_same_bits(actual, *fit_together(trainings_of(model, images, (seed,), regime, attack=attack)))


def test_networks_with_dropout_draw_the_same_numbers_together_as_alone(images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    together = fit_together(trainings_of(model, images))
    for seed, actual in zip((1, 2, 3), together, strict=True):
        assert_the_same_bits(actual, *fit_together(trainings_of(model, images, (seed,))))


def test_a_diverging_training_does_not_affect_the_others(tinyten: Model, images: Images) -> None:
    trainings = trainings_of(tinyten, images)
    trainings[1].progress.trainable[5] = float("nan")
    first, second, third = fit_together(trainings)
    assert isinstance(second, Diverged) and "epoch 1, step 1 of 3" in str(second)
    for seed, actual in ((1, first), (3, third)):
        assert_the_same_bits(actual, *fit_together(trainings_of(tinyten, images, (seed,))))


def test_the_error_of_the_first_training_is_raised_after_the_others_are_yielded(tinyten: Model, images: Images) -> None:
    trainings = trainings_of(tinyten, images, (1, 2))
    trainings[0].progress.trainable[5] = float("nan")
    results = train_together(trainings)
    assert next(results) == (1, trainings[1].progress)
    with pytest.raises(Diverged, match="epoch 1, step 1 of 3"):
        next(results)


def test_trainings_resumed_together_give_the_same_bits_wherever_each_was(
    tinyten: Model, images: Images, tmp_path: Path
) -> None:
    uninterrupted = fit_together(trainings_of(tinyten, images))
    stopped = {1: Checkpoint(tmp_path / "1", every=0), 2: Fragile(tmp_path / "2", 1, 2)}
    with pytest.raises(Interrupted):
        fit_together(trainings_of(tinyten, images, keepers=stopped))
    kept = {seed: Checkpoint(tmp_path / str(seed), every=0) for seed in (1, 2)}
    for actual, expected in zip(fit_together(trainings_of(tinyten, images, keepers=kept)), uninterrupted, strict=True):
        assert_the_same_bits(actual, expected)


# resuming after an interruption


class Interrupted(Exception):
    pass


class Fragile:
    """A keeper that interrupts the training at a step of the epoch after `epoch` complete ones."""

    def __init__(self, folder: Path, epoch: int, step: int = 0):
        self.disk, self.end = Checkpoint(folder, every=0), (epoch, step)

    def restore(self, fresh: Progress) -> Progress:
        return self.disk.restore(fresh)

    def keep(self, progress: Progress) -> None:
        self.disk.keep(progress)
        if (progress.epoch, progress.step) == self.end:
            raise Interrupted


@pytest.mark.parametrize("epoch, step", [(0, 1), (0, 3), (1, 0), (2, 2), (4, 0)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_resuming_after_an_interruption_gives_the_same_bits(
    images: Images, tmp_path: Path, variant: str, epoch: int, step: int
) -> None:
    model = perceptron(16, dropout=0.5)
    state, options = randomised(model.network), VARIANTS[variant]
    uninterrupted = train(model, state, images, **options)
    with pytest.raises(Interrupted):
        train(model, state, images, keeper=Fragile(tmp_path, epoch, step), **options)
    resumed = train(model, state, images, keeper=Checkpoint(tmp_path, every=0), **options)
    assert_the_same_bits(resumed, uninterrupted)


def test_a_curve_is_resumed_after_two_interruptions(tinyten: Model, images: Images, tmp_path: Path) -> None:
    problem = curve_problem(tinyten)
    uninterrupted = bend(tinyten, *problem, images, REGIME)
    for epoch, step in ((1, 2), (3, 0)):
        with pytest.raises(Interrupted):
            bend(tinyten, *problem, images, REGIME, keeper=Fragile(tmp_path, epoch, step))
    assert_the_same_bits(bend(tinyten, *problem, images, REGIME, keeper=Checkpoint(tmp_path, every=0)), uninterrupted)


def test_a_resumed_run_trains_the_missing_steps_only(images: Images, tmp_path: Path) -> None:
    model = perceptron(16)
    state = randomised(model.network)
    with pytest.raises(Interrupted):
        train(model, state, images, keeper=Fragile(tmp_path, 3, 1))
    seen = batches_seen_by(model)
    train(model, state, images, keeper=Checkpoint(tmp_path))
    assert sum(seen) == len(images) - REGIME.batch_size


def test_progress_within_a_block_of_augmented_steps_is_resumed_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "AT_ONCE", 3 * REGIME.batch_size)
    model, images = perceptron(16), pictures(8 * REGIME.batch_size - 2)  # blocks of 3, 3 and 2 steps
    state, options = randomised(model.network), VARIANTS["augmented"]
    uninterrupted = train(model, state, images, **options)
    with pytest.raises(Interrupted):
        train(model, state, images, keeper=Fragile(tmp_path, 1, 5), **options)
    assert_the_same_bits(train(model, state, images, keeper=Checkpoint(tmp_path, every=0), **options), uninterrupted)


def test_gradient_checkpointing_changes_nothing(images: Images) -> None:
    class Saving(torch.nn.Module):
        """A network under gradient checkpointing: it runs again in the backward pass."""

        def __init__(self, network: torch.nn.Module, reentrant: bool | None):
            super().__init__()
            self.inner, self.reentrant = network, reentrant

        def forward(self, x: Tensor) -> Tensor:
            if self.reentrant is None:
                return self.inner(x)
            return checkpoint(self.inner, x.requires_grad_(), use_reentrant=self.reentrant)

    ends = []
    for reentrant in (None, False, True):
        model = perceptron(16)
        model = replace(model, network=Saving(model.network, reentrant))
        ends.append(train(model, randomised(model.network), images).trainable)
    assert_close({"w": ends[1]}, {"w": ends[0]}, 1e-12)
    assert_close({"w": ends[2]}, {"w": ends[0]}, 1e-12)


# the end of an epoch, and batches of one image


def test_a_run_that_was_killed_after_the_last_step_of_an_epoch_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The resumed epoch has no steps left, so the log cannot name a speed."""
    caplog.set_level("INFO", logger="neuralign")
    model, images, regime = perceptron(), pictures(10, side=8), replace(REGIME, epochs=3)
    state = randomised(model.network)

    class Killed(Checkpoint):
        def keep(self, progress: Progress) -> None:
            super().keep(progress)
            if (progress.epoch, progress.step) == (1, 2):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, state, images, regime, keeper=Killed(tmp_path, every=0.0))
    caplog.clear()
    actual = train(model, state, images, regime, keeper=Checkpoint(tmp_path, every=0.0))
    expected = train(model, state, images, regime)
    assert_the_same_bits(actual, expected)
    resumed, second, third, *_ = [record.getMessage() for record in caplog.records]
    assert resumed == "resumed after epoch 1 of 3, step 2"
    assert second.endswith(" %") and third.endswith(" images/s  0 s left")


def test_a_long_epoch_says_every_half_minute_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="neuralign")
    seconds = counted(step=12)  # the clock is read after every step, and twice where a line is written
    monkeypatch.setattr("neuralign.training.loop.time.monotonic", lambda: float(next(seconds)))
    model, regime = perceptron(), replace(REGIME, epochs=1, batch_size=5)
    train(model, randomised(model.network), pictures(50, side=8), regime)
    *reminders, last = [record.getMessage() for record in caplog.records]
    assert [line.split("  ")[0] for line in reminders] == ["epoch 0.30/1", "epoch 0.60/1", "epoch 0.90/1"]
    assert all(line.endswith(" s left") and " images/s  " in line for line in reminders)
    assert last.startswith("epoch 1/1  lr ") and "loss" in last


@pytest.mark.parametrize("count, batch_size", [(9, 4), (1, 4), (3, 1)])
def test_a_single_image_that_batch_norm_cannot_train_on_is_refused_before_anything_is_trained(
    count: int, batch_size: int
) -> None:
    model, images = perceptron(), pictures(count, side=8)
    draws, modes = torch.get_rng_state(), [m.training for m in model.network.modules()]
    refusal = (
        f"^{count} images in batches of {batch_size} leave one alone in the last batch, and the network does not "
        "train on a single one: ValueError: Expected more than 1 value per channel when training, got input size "
        r"torch.Size\(\[1, 8\]\); choose another batch_size$"
    )
    with pytest.raises(UserError, match=refusal):
        train(model, randomised(model.network), images, replace(REGIME, batch_size=batch_size))
    assert torch.equal(torch.get_rng_state(), draws)
    assert [m.training for m in model.network.modules()] == modes


@pytest.mark.parametrize("batch_size", [2500, 5000, 6000])
def test_batches_larger_than_a_block_of_augmentations_are_ordinary_steps(batch_size: int) -> None:
    assert batch_size > batches.AT_ONCE
    model, images, regime = perceptron(4), pictures(5000, side=4), replace(REGIME, epochs=2, batch_size=batch_size)
    state = randomised(model.network)
    expected, losses = ordinary_training(model, state, images, regime)
    progress = train(model, state, images, regime)
    assert_close(trained_state(progress, model, state), expected, 1e-11)
    assert [row["loss"] for row in progress.history] == pytest.approx(losses, rel=1e-6)


def test_trainings_of_different_layouts_take_turns_in_one_process(images: Images) -> None:
    """Curves have different layouts if a frozen tensor differs between the ends of one but not of the other."""
    model = perceptron(16, dropout=0.5)
    first, second = (randomised(model.network, seed) for seed in (0, 1))

    def begun(names: list[str], seed: int) -> Training:
        state = first if seed == 1 else second
        layout = FlatLayout.of({n: state[n] for n in names}, untrained=set(names) - set(names[:2]))
        start, rest = layout.flatten(state), {n: t for n, t in state.items() if n not in names}
        trained = layout.trained_size

        def sample(weights: Tensor, _: Tensor) -> Tensor:
            return torch.cat([weights, start[trained:]])

        return Training(model, start[:trained], sample, layout, rest, images, REGIME, transform=plain, seed=seed)

    kinds = [(["1.weight", "5.weight"], 1), (["5.bias", "1.bias", "2.running_mean"], 2)]
    together = fit_together([begun(*kind) for kind in kinds])
    for kind, actual in zip(kinds, together, strict=True):
        assert_the_same_bits(actual, *fit_together([begun(*kind)]))
