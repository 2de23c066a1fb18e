"""Attacks: inside the box, at the known optimum of a linear model, the same with the same generator."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny import generator, perceptron, pictures, randomised
from torch import Tensor
from torch.nn import functional as F

from neuralign.attacks.pgd import pgd
from neuralign.images import as_float
from neuralign.networks import criterion
from neuralign.plugins import plugin
from neuralign.schemas import plugins, schema

EPS = 0.03
BUDGET = {"eps": EPS, "step": 0.01}  # for attacks that want to be told
NAMES = plugins("attacks")

Predict = Callable[[Tensor], Any]


def attack(use: str) -> Callable[..., Tensor]:
    fields = schema("attacks", use).model_fields
    return plugin("attacks", {"use": use, **{k: v for k, v in BUDGET.items() if k in fields}})


def pixels_and_labels(count: int = 10) -> tuple[Tensor, Tensor]:
    """Pictures with black and white areas, so that the limits of [0, 1] matter."""
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
    """The worst pixels for a linear model of two classes: every pixel as far as it may go, towards the other class."""
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
    (pixels, labels), predict = pixels_and_labels(30), network()
    one, many = (
        losses(predict, pgd(predict, pixels, labels, generator(), eps=EPS, step=0.002, steps=2, restarts=n), labels)
        for n in (1, 6)
    )
    assert (many >= one).all()
    assert (many > one + 1e-4).any()


def test_restarts_attack_the_main_head_of_a_network_with_several() -> None:
    (pixels, labels), main = pixels_and_labels(), network()
    attacked = pgd(
        lambda x: (main(x), 0 * main(x)), pixels, labels, generator(), eps=EPS, step=0.01, steps=2, restarts=2
    )
    assert losses(main, attacked, labels).mean() > losses(main, pixels, labels).mean()


def test_a_model_whose_loss_is_not_finite_leaves_the_pixels_alone() -> None:
    pixels, labels = pixels_and_labels()
    attacked = pgd(
        lambda x: x.flatten(1)[:, :5] * float("nan"), pixels, labels, generator(), eps=EPS, step=0.01, restarts=2
    )
    assert torch.equal(attacked, pixels)
