"""The speed of a precision on this machine is logged before a training; measuring it has no side effects."""

import logging
from collections.abc import Callable

import pytest
import torch
from tiny import assert_same, perceptron, pictures, whole
from torch import nn

from neuralign.networks.model import Model
from neuralign.training import step_time
from neuralign.training.progress import Regime


def regime(kind: str = "bfloat16", batch_size: int = 10) -> Regime:
    return Regime(1, batch_size, 0.1, 0.9, 0.0, lambda epoch, epochs: 1.0, precision=kind)


def single(model: Model) -> Model:
    return Model(model.network.float(), model.mean.float(), model.std.float())


def fake_step_times(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[tuple[int, str]]:
    """Make steps take these seconds by precision; the list of (batch size, precision) of the steps that were run."""
    steps: list[tuple[int, str]] = []

    def take(model: object, state: object, images: object, objective: object, size: int, kind: str) -> float:
        steps.append((size, kind))
        return seconds[kind]

    monkeypatch.setattr(step_time, "_seconds", take)
    return steps


def test_a_slower_precision_is_logged_as_a_warning_with_both_times(monkeypatch, caplog) -> None:
    fake_step_times(monkeypatch, float32=0.01, bfloat16=0.09)
    step_time.report_speed(single(perceptron(8)), pictures(20, side=8), regime())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "10 images forward and back: 90 ms in bfloat16, 10 ms in float32: bfloat16 is 9.0 times as slow as float32 on "
        "this machine, which may lack it; without `precision: bfloat16` the regime would be faster here"
    )


def test_a_faster_precision_is_logged_with_both_times(monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, logger="neuralign")
    fake_step_times(monkeypatch, float32=0.09, bfloat16=0.03)
    step_time.report_speed(single(perceptron(8)), pictures(20, side=8), regime())
    (record,) = caplog.records
    expected = "10 images forward and back: 30 ms in bfloat16, 90 ms in float32, 3.0 times as fast"
    assert (record.levelno, record.getMessage()) == (logging.INFO, expected)


def test_float32_is_not_measured(monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, logger="neuralign")
    steps = fake_step_times(monkeypatch, float32=0.01)
    step_time.report_speed(single(perceptron(8)), pictures(20, side=8), regime("float32"))
    assert not steps and not caplog.records


@pytest.mark.parametrize(("step", "size"), [(0.001, 64), (0.133, 40), (0.5, 10), (9.0, 8)])
def test_slow_machines_measure_smaller_steps(monkeypatch, step: float, size: int) -> None:
    steps = fake_step_times(monkeypatch, float32=step / 2, bfloat16=step / 2)
    measured, *_ = step_time.step_seconds(single(perceptron(8)), pictures(100, side=8), 64, "bfloat16")
    assert measured == pytest.approx(size, abs=1)
    assert [kind for _, kind in steps] == ["float32", "bfloat16"] * (len(steps) // 2)
    assert len(steps) == (4 if step > step_time.BUDGET else 8), "one pair of steps will do where they are slow"


@pytest.mark.parametrize("set_mode", [nn.Module.train, nn.Module.eval])
def test_measuring_leaves_weights_buffers_modes_and_random_numbers_alone(set_mode: Callable) -> None:
    model = single(perceptron(8, dropout=0.5))
    set_mode(model.network)
    model.network.get_submodule("2").eval()
    modes = [m.training for m in model.network.modules()]
    before, draws = {n: t.clone() for n, t in whole(model.network).items()}, torch.get_rng_state()
    size, *seconds = step_time.step_seconds(model, pictures(20, side=8), 12, "bfloat16")
    assert 8 <= size <= 12 and min(seconds) > 0
    assert_same(whole(model.network), before)
    assert torch.equal(torch.get_rng_state(), draws)
    assert [m.training for m in model.network.modules()] == modes
    assert all(p.grad is None for p in model.network.parameters())


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_images_are_enough(count: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    model = Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    size, *_ = step_time.step_seconds(model, pictures(count, side=8), 64, "bfloat16")
    assert size >= count


def test_networks_of_several_types_are_measured() -> None:
    """Whole numbers have no gradient, frozen ones need none."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(192, 8), nn.Linear(8, 5).double()
            self.order = nn.Parameter(torch.arange(8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.first(x.flatten(1))[:, self.order].double())

    model = Model(Mixed(), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    size, plain, other = step_time.step_seconds(model, pictures(8, side=8), 4, "bfloat16")
    assert size == 4 and plain > 0 and other > 0
