"""What merges are worth: barriers and calibrated losses with known answers."""

import pytest
import torch
from tiny import generator, randomised
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from neuralign.datasets.arrays import Arrays
from neuralign.datasets.images import as_is
from neuralign.evaluation.calibration import temperatures
from neuralign.merging.measurement import Line, measure_line, measure_models
from neuralign.merging.merge import merge_of
from neuralign.merging.repairs.reset import reset
from neuralign.networks.model import Model
from neuralign.symmetry.permutations import permute, random
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.batch_norm import Estimate

STEPS = 9


def network(*, norm: bool = False) -> nn.Sequential:
    norms = [nn.BatchNorm1d(12)] if norm else []
    return nn.Sequential(nn.Linear(6, 12), *norms, nn.ReLU(), nn.Linear(12, 4))


def examples(count: int, seed: int, net: nn.Module, state) -> Arrays:
    """Inputs, and classes drawn with the probabilities of a network, which is calibrated on them."""
    inputs = torch.randn(count, 6, generator=generator(seed), dtype=torch.float64)
    probabilities = functional_call(net.eval(), state, (inputs,)).softmax(1)
    return Arrays(inputs, torch.multinomial(probabilities, 1, generator=generator(seed + 1))[:, 0])


def line_between(net: nn.Sequential, second=None) -> Line:
    """The line from a network to another, or to a permuted copy of itself if there is no `second`."""
    model = Model(net.double(), None, None)
    first = randomised(net, 2)
    training = examples(64, 1, net, first)
    trace = trace_model(model, training)
    last = permute(trace.spec, random(trace.spec, generator(3)), first) if second is None else second(first)
    merge = merge_of(model, trace, [first, last], training)
    estimate = Estimate.on(training, as_is, batch_size=32, seed=0)
    return Line.between(merge, estimate, examples(40, 5, net, first), batch_size=16, seed=0)


def test_between_equal_networks_there_is_no_barrier_and_the_mean_is_the_network():
    line = line_between(network(norm=True), lambda state: dict(state))
    row = measure_line(line, STEPS)
    assert row["agreement"] == pytest.approx(1) and row["distance"] == 0
    assert row["barrier"] == pytest.approx(0, abs=1e-9) and row["calibrated_barrier"] == pytest.approx(0, abs=1e-9)
    rows = {row["model"]: row for row in measure_models(line, {"reset": reset}, {"clean": None})}
    assert list(rows) == ["first", "second", "ensemble", "mean", "reset"]
    for name in ("second", "ensemble"):
        assert rows[name]["loss"] == pytest.approx(rows["first"]["loss"], abs=1e-9)


def test_the_barrier_is_that_of_a_dense_grid_and_its_interval_holds_it():
    line = line_between(network())
    row = measure_line(line, STEPS)
    assert row["agreement"] < 0.9 and row["distance"] > 1

    def loss(t: float) -> float:
        (batch,) = line.test.batches(len(line.test))
        return F.cross_entropy(line.merge.model(line.state_at(t), batch[0]), batch[1]).item()

    dense = [t / 400 for t in range(401)]
    rises = [loss(t) - (1 - t) * loss(0) - t * loss(1) for t in dense]
    highest = max(range(len(dense)), key=lambda i: rises[i])
    assert row["barrier"] == pytest.approx(rises[highest], abs=1e-4) and row["barrier"] >= 0
    assert row["barrier_t"] == pytest.approx(dense[highest], abs=0.01)
    assert row["barrier_low"] <= row["barrier"] <= row["barrier_high"]


def test_a_network_with_larger_logits_has_the_same_calibrated_loss():
    def sharper(state):
        return state | {name: 3 * state[name] for name in ("2.weight", "2.bias")}

    line = line_between(network(), sharper)
    rows = {row["model"]: row for row in measure_models(line, {}, {"clean": None})}
    assert rows["second"]["loss"] > rows["first"]["loss"] + 0.01
    assert rows["second"]["calibrated_loss"] == pytest.approx(rows["first"]["calibrated_loss"], abs=1e-5)
    assert rows["second"]["temperature"] == pytest.approx(3 * rows["first"]["temperature"], rel=1e-3)
    assert rows["second"]["accuracy"] == rows["first"]["accuracy"]
    assert measure_line(line, STEPS)["calibrated_barrier"] == pytest.approx(0, abs=1e-4)


def test_the_temperature_of_an_example_is_that_of_the_other_half():
    logits = 2 * torch.randn(10, 3, generator=generator(2), dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator(3))[:, 0]
    fitted = temperatures(logits, labels, seed=0)
    assert fitted.shape == (10, 1) and len(fitted.unique()) == 2
    example = 4
    changed = logits.clone()
    changed[example] *= -5
    again = temperatures(changed, labels, seed=0)
    same_half = (fitted == fitted[example]).flatten()
    assert torch.equal(again[same_half], fitted[same_half])
    assert (again[~same_half] != fitted[~same_half]).all()


def test_a_half_without_mistakes_tells_no_temperature():
    logits = torch.eye(3, dtype=torch.float64)[torch.arange(40) % 3] * 5
    labels = torch.arange(40) % 3
    assert (temperatures(logits, labels, seed=0) == 1).all() and (
        temperatures(logits[:1], labels[:1], seed=0) == 1
    ).all()
    labels[7] = (labels[7] + 1) % 3
    fitted = temperatures(logits, labels, seed=0)
    assert fitted[7] == 1 and (fitted != 1).sum() == 20, "the mistake tells the temperature of the other half"


def test_under_attack_a_network_has_the_loss_of_the_attacked_examples():
    def shifted(predict, inputs, targets, noise):
        return inputs + 1

    line = line_between(network())
    rows = {(row["model"], row["attack"]): row for row in measure_models(line, {}, {"clean": None, "shift": shifted})}
    assert ("ensemble", "shift") not in rows
    (batch,) = line.test.batches(len(line.test))
    outputs = line.merge.model(line.merge.ends[0], batch[0] + 1)
    assert rows["first", "shift"]["loss"] == pytest.approx(F.cross_entropy(outputs, batch[1]).item(), abs=1e-6)
    assert "ece" in rows["first", "clean"] and "ece" not in rows["first", "shift"]
