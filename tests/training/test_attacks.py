"""Attacks stay within their bounds, reach the known optimum of a linear model, and depend on their generator only."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny import BUDGET, attack_entry, generator, perceptron, pictures, randomised
from torch import Tensor
from torch.nn import functional as F

from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.datasets.images import as_float
from neuralign.networks.model import criterion
from neuralign.training.attacks.pgd import pgd

EPS = BUDGET["eps"]
NAMES = plugins("attacks")

Predict = Callable[[Tensor], Any]


def attack(use: str) -> Callable[..., Tensor]:
    return plugin("attacks", attack_entry(use))


def pixels_and_labels(count: int = 10) -> tuple[Tensor, Tensor]:
    """Images with black and white areas, where the limits of [0, 1] matter."""
    images = pictures(count, side=8)
    return ((as_float(images.pixels) - 0.5) * 4 + 0.5).clamp(0, 1), images.labels


def linear(classes: int = 2) -> Predict:
    weight = torch.randn(classes, 3 * 8 * 8, generator=generator(1))
    return lambda pixels: pixels.flatten(1) @ weight.T


def network() -> Predict:
    model = perceptron(8)
    model.network.eval()
    return partial(model, randomised(model.network))


def losses(predict: Predict, pixels: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(predict(pixels), labels, reduction="none").detach()


def assert_in_the_box(attacked: Tensor, pixels: Tensor) -> None:
    assert attacked.shape == pixels.shape and attacked.dtype == pixels.dtype
    assert (attacked - pixels).abs().max() <= EPS + 1e-7
    assert 0 <= attacked.min() and attacked.max() <= 1
    assert not attacked.requires_grad


@pytest.mark.parametrize("use", NAMES)
class TestEveryAttack:
    def test_stays_in_the_box_and_raises_the_loss(self, use: str) -> None:
        pixels, labels = pixels_and_labels()
        for predict in (linear(5), network()):
            attacked = attack(use)(predict, pixels, labels, generator())
            assert_in_the_box(attacked, pixels)
            assert losses(predict, attacked, labels).mean() > losses(predict, pixels, labels).mean()

    def test_does_not_lower_the_loss_of_any_image_on_a_linear_model(self, use: str) -> None:
        (pixels, labels), predict = pixels_and_labels(), linear()
        labels = labels % 2
        attacked = attack(use)(predict, pixels, labels, generator())
        assert (losses(predict, attacked, labels) >= losses(predict, pixels, labels) - 1e-6).all()

    def test_is_the_same_with_the_same_generator_and_leaves_the_global_one_alone(self, use: str) -> None:
        (pixels, labels), predict = pixels_and_labels(), network()
        before = torch.get_rng_state()
        first, second = (attack(use)(predict, pixels, labels, generator(3)) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), before)

    def test_leaves_its_arguments_and_no_gradients_behind(self, use: str) -> None:
        pixels, labels = pixels_and_labels()
        before = pixels.clone()
        model = perceptron(8)
        state = randomised(model.network)
        for name, _ in model.network.named_parameters():
            state[name].requires_grad_()
        model.network.eval()
        attack(use)(partial(model, state), pixels, labels, generator())
        assert torch.equal(pixels, before) and not pixels.requires_grad
        assert all(tensor.grad is None for tensor in state.values())
        assert all(parameter.grad is None for parameter in model.network.parameters())

    def test_reads_networks_with_several_heads(self, use: str) -> None:
        (pixels, labels), main, auxiliary = pixels_and_labels(), linear(5), network()

        def predict(x: Tensor) -> tuple[Tensor, ...]:
            return main(x), auxiliary(x), auxiliary(1 - x)

        attacked = attack(use)(predict, pixels, labels, generator())
        assert_in_the_box(attacked, pixels)
        assert criterion(predict(attacked), labels) > criterion(predict(pixels), labels)

    def test_attacks_one_image_too(self, use: str) -> None:
        pixels, labels = pixels_and_labels(1)
        assert_in_the_box(attack(use)(network(), pixels, labels, generator()), pixels)


def optimum(pixels: Tensor, labels: Tensor, predict: Predict) -> Tensor:
    """The pixels of largest loss for a linear model of two classes: each moved by `eps` towards the other class."""
    basis = predict(torch.eye(3 * 8 * 8).view(-1, 3, 8, 8))  # (d, 2), the weights
    away = torch.where(labels[:, None] == 0, basis[:, 1] - basis[:, 0], basis[:, 0] - basis[:, 1]).view_as(pixels)
    return (pixels + EPS * away.sign()).clamp(0, 1)


@pytest.mark.parametrize("options", [{}, {"random_start": False}, {"restarts": 3}], ids=str)
def test_pgd_reaches_the_optimum_of_a_linear_model(options: dict[str, Any]) -> None:
    (pixels, labels), predict = pixels_and_labels(), linear()
    labels = labels % 2
    attacked = pgd(predict, pixels, labels, generator(), eps=EPS, step=0.01, steps=7, **options)
    torch.testing.assert_close(attacked, optimum(pixels, labels, predict), rtol=0, atol=1e-7)


def test_pgd_of_one_step_without_a_random_start_is_the_sign_of_the_gradient() -> None:
    (pixels, labels), predict = pixels_and_labels(), network()
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(predict(leaf), labels), leaf)
    attacked = pgd(predict, pixels, labels, generator(), eps=EPS, step=EPS, steps=1, random_start=False)
    torch.testing.assert_close(attacked, (pixels + EPS * gradient.sign()).clamp(0, 1), rtol=0, atol=1e-7)


def test_a_random_start_fills_the_box() -> None:
    pixels, labels = torch.full((200, 3, 8, 8), 0.5), torch.zeros(200, dtype=torch.int64)
    seen = []

    def predict(x: Tensor) -> Tensor:
        seen.append((x - 0.5).detach())
        return x.flatten(1)[:, :2]

    pgd(predict, pixels, labels, generator(), eps=EPS, step=0.01, steps=1)
    assert -EPS - 1e-6 <= seen[0].min() < -0.999 * EPS
    assert 0.999 * EPS < seen[0].max() <= EPS + 1e-6
    assert seen[0].mean().abs() < 0.01 * EPS


def test_another_generator_starts_elsewhere() -> None:
    (pixels, labels), predict = pixels_and_labels(), network()
    first, second = (pgd(predict, pixels, labels, generator(s), eps=EPS, step=0.001, steps=1) for s in (1, 2))
    assert not torch.equal(first, second)


def test_restarts_are_never_worse_than_one_and_sometimes_better() -> None:
    """More restarts never turn a misclassified image into a correct one, nor lower the loss of equal answers."""
    (pixels, labels), predict = pixels_and_labels(30), network()
    one, many = (pgd(predict, pixels, labels, generator(), eps=EPS, step=0.002, steps=2, restarts=n) for n in (1, 6))
    wrong, wrong_of_many = ((predict(attacked).argmax(1) != labels) for attacked in (one, many))
    more = losses(predict, many, labels) - losses(predict, one, labels)
    assert (wrong <= wrong_of_many).all()
    assert (more >= 0)[wrong == wrong_of_many].all()
    assert (more > 1e-4).any()


ANSWERS = torch.tensor([[0.40, 0.30, 0.30], [0.45, 0.50, 0.05], [0.20, 0.15, 0.65], [0.70, 0.20, 0.10]]).log()
"""Log-probabilities of three classes; in those of class 0 the first has a larger loss than the second, and is right."""


def in_strips(seen: list[Tensor]) -> Predict:
    """A network that returns one of the `ANSWERS`, chosen by the value of the first pixel, and records its inputs.

    Its gradient is zero, so each attempt ends at its random start.
    """

    def predict(x: Tensor) -> Tensor:
        seen.append(x.detach())
        strip = (x[:, 0, 0, 0] * len(ANSWERS)).long().clamp(max=len(ANSWERS) - 1)
        return ANSWERS[strip] + 0 * x.sum((1, 2, 3))[:, None]

    return predict


@pytest.mark.parametrize("strips", [2, 3, 4])
@pytest.mark.parametrize("restarts", [2, 3, 5])
def test_an_image_is_right_after_restarts_only_if_it_is_right_in_every_attempt(strips: int, restarts: int) -> None:
    """The attempt of largest loss is kept, of the misclassified ones if there are any."""
    seen: list[Tensor] = []
    high = strips / len(ANSWERS)
    pixels, labels = torch.full((200, 1, 1, 1), high / 2), torch.arange(200) % 2
    attack = partial(pgd, eps=high / 2, step=0.01, steps=1, restarts=restarts)
    actual = attack(in_strips(seen), pixels, labels, generator())
    attempts = torch.stack(seen[1::2])  # each attempt is evaluated once for its gradient and once for its loss
    assert len(attempts) == restarts
    tried = [in_strips([])(attempt) for attempt in attempts]
    wrong = torch.stack([answers.argmax(1) != labels for answers in tried])
    loss = torch.stack([F.cross_entropy(answers, labels, reduction="none") for answers in tried])
    expected = torch.where(wrong.any(0), loss.where(wrong, -torch.inf).amax(0), loss.amax(0))
    answers = in_strips([])(actual)
    assert torch.equal(answers.argmax(1) != labels, wrong.any(0))
    torch.testing.assert_close(F.cross_entropy(answers, labels, reduction="none"), expected, rtol=0, atol=0)
    assert (expected < loss.amax(0)).any(), "otherwise the largest loss alone would do"


def test_a_wrong_attempt_whose_loss_is_not_finite_is_kept_and_one_without_a_loss_is_not() -> None:
    answers = [torch.tensor([row]) for row in ([0.0, 1.0], [-torch.inf, 0.0], [torch.nan, torch.nan], [0.0, 2.0])]
    shown: list[Tensor] = []

    def predict(x: Tensor) -> Tensor:
        shown.append(x.detach())
        return answers[(len(shown) - 1) // 2] + 0 * x.sum()

    actual = pgd(
        predict, torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), generator(), eps=0.1, step=0.0, steps=1, restarts=4
    )
    assert torch.equal(actual, shown[3])  # the second attempt, when it is compared


def test_restarts_attack_the_main_head_of_a_network_with_several() -> None:
    (pixels, labels), main = pixels_and_labels(), network()
    attacked = pgd(
        lambda x: (main(x), 0 * main(x)), pixels, labels, generator(), eps=EPS, step=0.01, steps=2, restarts=2
    )
    assert losses(main, attacked, labels).mean() > losses(main, pixels, labels).mean()


def test_pixels_stay_if_the_loss_is_never_finite() -> None:
    pixels, labels = pixels_and_labels()
    attacked = pgd(
        lambda x: x.flatten(1)[:, :5] * float("nan"), pixels, labels, generator(), eps=EPS, step=0.01, restarts=2
    )
    assert torch.equal(attacked, pixels)
