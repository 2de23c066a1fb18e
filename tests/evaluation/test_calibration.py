"""Temperature, calibration, ensembles and barriers: known answers."""

from math import inf, isnan, log, nan, sin

import pytest
import torch
from tiny import generator
from torch.nn import functional as F

from neuralign.common.errors import UserError
from neuralign.datasets.arrays import Arrays
from neuralign.evaluation.barrier import barrier, find_maximum, interval_of_mean, values_of
from neuralign.evaluation.calibration import calibration, ensemble, predictions, temperature
from neuralign.networks.model import Model
from neuralign.training.objectives.cross_entropy import CLASSIFICATION


def noisy(count: int = 2000, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels that are drawn from their probabilities: the temperature is 1."""
    logits = 2 * torch.randn(count, classes, generator=generator(1), dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator(2))[:, 0]


def test_the_temperature_is_the_best_of_a_grid():
    logits, labels = noisy()
    found = temperature(3 * logits, labels)
    grid = [0.01 * i for i in range(10, 1000)]
    best = min(grid, key=lambda t: F.cross_entropy(3 * logits / t, labels).item())
    assert abs(found - best) <= 0.01


def test_logits_that_are_scaled_have_a_temperature_that_is_scaled():
    logits, labels = noisy()
    base = temperature(logits, labels)
    assert abs(base - 1) < 0.1
    for factor in (0.2, 7.0):
        assert abs(temperature(factor * logits, labels) / (factor * base) - 1) < 1e-4


def test_a_temperature_changes_no_prediction_and_lowers_the_likelihood_loss():
    logits, labels = noisy()
    logits = 4 * logits
    raw, calibrated = calibration(logits, labels), calibration(logits / temperature(logits, labels), labels)
    assert raw["error"] == calibrated["error"]
    assert calibrated["nll"] < raw["nll"] and calibrated["ece"] < raw["ece"] and calibrated["brier"] < raw["brier"]


def test_calibration_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]], dtype=torch.float64)
    values = calibration(probabilities.log(), torch.tensor([0, 1, 1, 0]))
    assert values["error"] == 50
    assert values["nll"] == pytest.approx(-(log(0.9) + log(0.2) + log(0.7) + log(0.4)) / 4)
    assert values["brier"] == pytest.approx(2 * (0.01 + 0.64 + 0.09 + 0.36) / 4)
    assert values["ece"] == pytest.approx(100 * (0.1 + 0.8 + 0.3 + 0.6) / 4)  # each is alone in its bin


def test_confidences_of_one_bin_are_compared_together():
    probabilities = torch.tensor([[0.61, 0.39]] * 4, dtype=torch.float64)
    values = calibration(probabilities.log(), torch.tensor([0, 0, 1, 1]))
    assert values["ece"] == pytest.approx(11)


def test_ensembles_by_hand():
    first, second = torch.tensor([[0.9, 0.1]]).double(), torch.tensor([[0.2, 0.8]]).double()
    of_probabilities = ensemble([first.log(), second.log()])
    assert torch.allclose(of_probabilities.softmax(1), (first + second) / 2)
    of_logits = ensemble([first.log(), second.log()], "logits")
    assert torch.allclose(of_logits, (first.log() + second.log()) / 2)


def test_predictions_are_those_of_the_network_and_targets_without_classes_are_refused():
    network = torch.nn.Linear(3, 2).double()
    x = torch.randn(7, 3, generator=generator(1), dtype=torch.float64)
    model, state = Model(network, None, None), dict(network.state_dict())
    logits, labels = predictions(model, state, Arrays(x, torch.arange(7) % 2), batch_size=3)
    assert torch.allclose(logits, network(x)) and torch.equal(labels, torch.arange(7) % 2)
    with pytest.raises(UserError, match=r"targets: found \(7, 2\) for outputs \(7, 2\); one class for each is needed"):
        predictions(model, state, Arrays(x, torch.zeros(7, 2)))
    with pytest.raises(UserError, match="targets: found NoneType"):
        predictions(model, state, Arrays(x, None))


def test_values_are_those_of_single_examples():
    network = torch.nn.Linear(3, 2).double()
    x, labels = torch.randn(5, 3, generator=generator(1), dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    metrics, examples = CLASSIFICATION.metrics, Arrays(x, labels)
    model, state = Model(network, None, None), dict(network.state_dict())
    losses = values_of(model, state, examples, metrics["loss"], batch_size=2)
    assert torch.allclose(losses, F.cross_entropy(network(x), labels, reduction="none"))
    right = values_of(model, state, examples, metrics["accuracy"])
    assert torch.equal(right, 100.0 * (network(x).argmax(1) == labels))


# ---- barriers


def test_a_maximum_between_points_of_the_grid_is_refined():
    calls = []

    def function(t: float) -> float:
        calls.append(t)
        return -abs(t - 0.37123)

    t, value = find_maximum(function)
    assert abs(t - 0.37123) < 1e-3 and value == function(t)
    assert len(calls) - 1 == len(set(calls)) < 40, "every point once"


@pytest.mark.parametrize(("function", "at"), [(lambda t: -t, 0.0), (lambda t: t, 1.0)])
def test_a_maximum_may_be_an_end(function, at):
    assert find_maximum(function)[0] == at


def test_the_barrier_of_a_loss_that_is_linear_along_the_path_is_zero():
    ends = torch.rand(2, 50, generator=generator(1))
    found = barrier(lambda t: (1 - t) * ends[0] + t * ends[1])
    assert abs(found.height) < 1e-6 and found.interval[0] - 1e-6 <= found.height <= found.interval[1] + 1e-6


def test_the_barrier_of_a_parabola_and_its_interval():
    heights = 1 + torch.rand(200, generator=generator(1), dtype=torch.float64)
    found = barrier(lambda t: 0.3 * t + 4 * t * (1 - t) * heights)
    assert abs(found.t - 0.5) < 2e-3 and found.height == pytest.approx(heights.mean().item(), rel=1e-5)
    low, high = found.interval
    assert low < found.height < high
    assert high - low == pytest.approx(2 * 1.96 * heights.std().item() / 200**0.5, rel=0.1)


def test_the_interval_of_a_barrier_at_an_end_knows_what_may_lie_between():
    losses = 0.5 * torch.randn(200, generator=generator(1), dtype=torch.float64)
    for mean in (-0.002, 0.0, 0.002):
        found = barrier(lambda t, mean=mean: 4 * t * (1 - t) * (losses - losses.mean() + mean))
        low, high = found.interval
        assert 0 <= low <= found.height + 1e-9 and 0.04 < high < 0.1


def test_an_interval_is_the_same_in_every_call():
    values = torch.randn(30, generator=generator(1))
    assert interval_of_mean(values) == interval_of_mean(values) != interval_of_mean(values, seed=1)


def test_a_loss_that_is_no_number_is_not_lost():
    values = [nan if 0.4 < i / 24 < 0.5 else 0.0 for i in range(25)]
    t, value = find_maximum(lambda t: values[round(24 * t)])
    assert isnan(value) and 0.4 < t < 0.5
    found = barrier(lambda t: torch.full((5,), nan if 0.4 < t < 0.5 else 1.0))
    assert isnan(found.height)


@pytest.mark.parametrize(
    ("function", "searched"),
    [(lambda t: -abs(t - 0.37123), 12), (lambda t: -((t - 0.37123) ** 2), 6), (lambda t: sin(4 * t), 6)],
)
def test_a_smooth_maximum_is_found_in_few_points(function, searched):
    calls: list[float] = []
    find_maximum(lambda t: calls.append(t) or function(t))
    assert len(calls) == len(set(calls)) <= 25 + searched


def test_a_loss_that_is_infinite_beside_its_maximum_is_refined_without_a_warning(recwarn):
    t, value = find_maximum(lambda t: -inf if t > 0.31 else t)
    assert t == value and 0.309 < t <= 0.31 and not recwarn.list
