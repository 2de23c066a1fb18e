"""What a plug-in of each kind has to fulfil. Run after `pip install .`: the names are those of the entry points."""

from pathlib import Path

import torch
from torch import nn

import neuralign as na
from neuralign.config.metrics import metrics_of
from neuralign.config.plugins import plugin
from neuralign.datasets.checks import check
from neuralign.training.objective import Objective


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 2)).double()


def test_the_dataset_is_accepted_and_the_same_each_time():
    first, again = (plugin("datasets", {"use": "bars", "side": 6, "count": 30})(Path()) for _ in range(2))
    check(first, "bars")  # types, shapes and labels
    assert (first.train.inputs == again.train.inputs).all() and len(first.test.targets) == 10


def test_the_alignment_undoes_a_permutation():
    net, batches = network(), [torch.rand(50, 1, 6, 6, dtype=torch.float64)]
    symmetry = na.trace(net, batches[0][:2])
    (group,) = symmetry.spec.free
    shuffled = na.permute(symmetry, {group: torch.randperm(12)}, net.state_dict())
    aligned = na.align(net, net.state_dict(), shuffled, batches, "mean_ranks", images=50)
    assert all(torch.equal(aligned.state[name], tensor) for name, tensor in net.state_dict().items())


def test_the_attack_stays_in_its_ball():
    pixels = torch.rand(3, 1, 6, 6)
    attack = plugin("attacks", {"use": "corner", "eps": 0.1})
    attacked = attack(network(), pixels, torch.zeros(3, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert attacked.min() >= 0 and attacked.max() <= 1 and 0 < (attacked - pixels).abs().max() < 0.1001


def test_the_objective_measures_what_it_says():
    objective = plugin("objectives", {"use": "smoothed", "smoothing": 0.0})()
    assert isinstance(objective, Objective) and {*metrics_of("smoothed").names} == {*objective.metrics}
    outputs, labels = torch.tensor([[0.0, 0.0], [99.0, 0.0]]), torch.tensor([1, 0])
    assert objective.metrics["confidence"].values(outputs, labels).tolist() == [0.5, 1.0]
