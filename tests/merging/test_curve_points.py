"""Single networks from curves, and soups."""

from math import nan, sqrt

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_close, generator
from torch import nn

from neuralign.common.errors import UserError
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.curves.curve import straight_line
from neuralign.curves.endpoints import endpoints_of
from neuralign.datasets.arrays import Arrays
from neuralign.evaluation.calibration import predictions
from neuralign.merging.curve_points import best_point, curve_ensemble, mean_of_curve, mean_weights, state_at
from neuralign.merging.export import write_network
from neuralign.merging.soups import greedy_soup
from neuralign.networks.model import Model
from neuralign.networks.states import mean_state
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.objectives.squared_error import squared_error

WEIGHTS = {"bezier": [1 / 3] * 3, "chain": [1 / 4, 1 / 2, 1 / 4], "segment": [1 / 2] * 2}


@pytest.mark.parametrize("use", plugins("curves"))
def test_the_mean_of_a_curve_has_known_weights(use):
    basis = plugin("curves", {"use": use})
    assert torch.allclose(mean_weights(basis), torch.tensor(WEIGHTS[use], dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("use", ["bezier", "chain"])
@pytest.mark.parametrize("bends", [2, 5])
def test_the_mean_of_a_curve_is_that_of_many_points(use, bends):
    basis = plugin("curves", {"use": use, "bends": bends})
    ts = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    many = torch.stack([basis(t) for t in ts[::20]]).mean(0)
    assert torch.allclose(mean_weights(basis), many, atol=1e-3) and abs(mean_weights(basis).sum() - 1) < 1e-14


def line(use: str = "bezier"):
    """A curve between two networks with a batch norm, and labelled rows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    other = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    model, x = Model(network, None, None), torch.randn(60, 4, generator=generator(1), dtype=torch.float64)
    ends = endpoints_of(model, [dict(n.state_dict()) for n in (network, other)], x)
    return straight_line(plugin("curves", {"use": use}), *ends.vectors), ends, Arrays(x, torch.arange(60) % 3)


def test_the_mean_of_the_straight_line_is_its_middle_with_statistics_of_its_own():
    curve, ends, examples = line()
    assert_close(mean_of_curve(curve, ends, examples), state_at(curve, ends, 0.5, examples))


def test_an_ensemble_of_one_point_is_the_point_and_of_two_are_the_ends():
    curve, ends, examples = line()
    logits, labels = curve_ensemble(curve, ends, examples, examples, points=1)
    single, _ = predictions(ends.model, state_at(curve, ends, 0.5, examples), examples)
    assert torch.allclose(logits.softmax(1), single.softmax(1)) and torch.equal(labels, examples.targets)
    logits, _ = curve_ensemble(curve, ends, examples, examples, points=2)
    of_ends = [predictions(ends.model, state_at(curve, ends, t, examples), examples)[0] for t in (0.0, 1.0)]
    assert torch.allclose(logits.softmax(1), sum(head.softmax(1) for head in of_ends) / 2)


def test_the_best_point_of_a_parabola():
    """A network y = w x with squared error: the loss along the line from w = 0 to 1 is least where w is right."""
    model = Model(nn.Linear(1, 1, bias=False).double(), None, None)
    x = torch.ones(4, 1, dtype=torch.float64)
    ends = endpoints_of(model, [{"weight": torch.full((1, 1), w, dtype=torch.float64)} for w in (0.0, 1.0)], x)
    curve = straight_line(plugin("curves", {"use": "segment"}), *ends.vectors)
    target = 1 / sqrt(7)
    found = best_point(curve, ends, Arrays(x, x), Arrays(x, target * x), squared_error())
    assert abs(found.t - target) < 1e-3 and found.loss < 1e-6
    assert found.state["weight"].item() == pytest.approx(found.t)


def test_the_best_point_may_be_an_end():
    curve, ends, examples = line("segment")
    heads, _ = predictions(ends.model, state_at(curve, ends, 1.0, examples), examples)
    own = Arrays(examples.inputs, (-heads).argmin(1))  # the labels that the second end predicts, as sure as can be
    found = best_point(curve, ends, examples, own, CLASSIFICATION, points=5)
    assert found.loss <= CLASSIFICATION.loss(heads, own.targets).item() + 1e-12


def test_a_curve_without_a_finite_loss_has_no_best_point():
    curve, ends, examples = line("segment")
    own = Arrays(examples.inputs * nan, examples.targets)
    with pytest.raises(UserError, match="no network on the curve has a finite validation loss, at none of 5 points"):
        best_point(curve, ends, examples, own, CLASSIFICATION, points=5)


def test_a_greedy_soup_adds_what_helps_and_begins_with_the_best():
    states = [{"w": torch.tensor(value)} for value in (3.0, -1.0, 1.5, 9.0)]
    score = {}

    def accuracy(state) -> float:  # the closer to 1, the better
        return score.setdefault(state["w"].item(), -abs(state["w"].item() - 1))

    chosen, soup = greedy_soup(states, mean_state, accuracy)
    assert chosen == (2,) and soup["w"] == 1.5, "no other mean is closer than 1.5 itself"
    states[0] = {"w": torch.tensor(0.6)}
    chosen, soup = greedy_soup(states, mean_state, accuracy)
    assert chosen == (0, 2) and soup["w"] == pytest.approx(1.05)


def test_a_greedy_soup_keeps_what_does_no_harm():
    states = [{"w": torch.tensor(value)} for value in (1.0, 1.0)]
    assert greedy_soup(states, mean_state, lambda state: 5.0)[0] == (0, 1)


def test_a_greedy_soup_passes_over_scores_that_are_no_numbers():
    scores = {0: float("nan"), 1: 0.5, 2: 0.4}
    states = [{"n": torch.tensor(i)} for i in scores]
    chosen, soup = greedy_soup(states, lambda ends: {"n": torch.tensor(0)}, lambda state: scores[int(state["n"])])
    assert chosen == (1,) and soup is states[1]


class Tied(nn.Module):
    """One matrix under two names, and a buffer that a checkpoint does not have."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.ones(5), persistent=False)

    def forward(self, tokens):
        return self.head(self.embedding(tokens) * self.mask)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_written_network_with_tied_weights_can_be_loaded_without_this_library(tmp_path, suffix):
    network, file = Tied(), tmp_path / f"it{suffix}"
    state = {"embedding.weight": torch.randn(7, 5, generator=generator(1)), "mask": torch.ones(5)}
    write_network(network, state, file)
    network.load_state_dict(load_file(file) if suffix == ".safetensors" else torch.load(file, weights_only=True))
    assert (
        torch.equal(network.head.weight, state["embedding.weight"]) and network.head.weight is network.embedding.weight
    )
