"""Learning-rate schedules against the values of the paper."""

import math

import pytest

from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.training.progress import Regime
from neuralign.training.schedules.constant import constant
from neuralign.training.schedules.halving import halving
from neuralign.training.schedules.plateau import plateau


@pytest.mark.parametrize("use", plugins("schedules"))
@pytest.mark.parametrize("epochs", [1, 2, 7, 250])
def test_every_schedule_starts_at_one_and_stays_positive(use: str, epochs: int) -> None:
    schedule = plugin("schedules", {"use": use})
    factors = [schedule(epoch, epochs) for epoch in range(epochs)]
    assert factors[0] == 1
    assert all(math.isfinite(factor) and 0 < factor <= 1 for factor in factors)


def test_constant_is_one() -> None:
    assert [constant(epoch, 3) for epoch in range(3)] == [1, 1, 1]


def test_halving_gives_the_rates_of_the_paper() -> None:
    rates = [0.1 * halving(epoch, 250) for epoch in range(0, 140, 20)]
    assert rates == pytest.approx([0.1, 0.0496, 0.0246, 0.0122, 0.00605, 0.003, 0.00149], rel=4e-3)
    assert halving(19, 250) == pytest.approx(0.9996**19)
    assert halving(20, 250) == pytest.approx(0.5 * 0.9996**20)


def test_halving_has_options() -> None:
    assert [halving(epoch, 6, every=2, factor=0.1, drift=1.0) for epoch in range(6)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_plateau_holds_then_falls_linearly_then_holds() -> None:
    rates = [plateau(epoch, 200) for epoch in (0, 100, 120, 140, 160, 180, 199)]
    assert rates == pytest.approx([1, 1, 0.7525, 0.505, 0.2575, 0.01, 0.01])


def test_plateau_of_twenty_epochs_is_full_in_the_first_eleven() -> None:
    rates = [plateau(epoch, 20) for epoch in range(20)]
    assert rates[:11] == [1] * 11
    assert rates[11] < 1
    assert rates[18:] == [0.01, 0.01]


def test_plateau_may_fall_at_once() -> None:
    assert [plateau(epoch, 4, hold=0.5, until=0.5, floor=0.2) for epoch in range(4)] == [1, 1, 1, 0.2]


def test_a_regime_has_the_schedule_of_its_entry() -> None:
    entry = {"epochs": 4, "batch_size": 8, "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    regime = Regime.of(entry | {"schedule": {"use": "halving", "every": 2, "drift": 1.0}, "precision": "bfloat16"})
    assert [regime.schedule(epoch, 4) for epoch in range(4)] == [1, 1, 0.5, 0.5]
    assert (regime.epochs, regime.nesterov, regime.precision) == (4, False, "bfloat16")
