"""The library's short calls, and that the documentation runs."""

import re
import warnings

import pytest
import tiny
import torch
from awkward import ATTENTIVE, FREE
from tiny import assert_close, assert_same, generator, pictures, randomised
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from workflow_project import REPOSITORY

from neuralign.explain import scattered
from neuralign.library import align, curve
from neuralign.symmetry import inverse, permute, random
from neuralign.tracing import trace


def test_the_page_runs_as_it_is_written():
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "library.md").read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["aligned"].certificate < 1e-9 and len(blocks) == 3
    assert names["found"].spec.free and names["net"].training, "left in its mode"


def test_align_undoes_a_permutation(tinyten):
    images, a = pictures(), randomised(tinyten.network)
    spec = trace(tinyten.network, torch.rand(2, 3, 16, 16).double()).spec
    b = permute(spec, random(spec, generator(1)), a)
    found = align(tinyten.network, a, b, images, "correlation", read="pre", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
    assert_close(found.state, a)
    assert found.certificate < 1e-9


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("method", ["correlation", "transport"])
def test_align_undoes_a_permutation_of_heads_and_of_channels_within(name, method):
    network, images = FREE[name][0](), pictures(side=8, count=64)
    a = scattered(network, 1)
    spec = trace(network, torch.rand(2, 3, 8, 8), attention=True).spec
    planted = random(spec, generator(2))
    assert planted.keys() >= ATTENTIVE[name].keys()
    found = align(network, a, permute(spec, planted, a), images, method, attention=True)
    assert all(torch.equal(found.permutation[g], inverse(planted)[g]) for g in ATTENTIVE[name])
    assert found.certificate < 1e-9


def hooked(kind: str) -> nn.Module:
    """A network with weights that a hook computes anew in every call; autograd made them, so they cannot be copied."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    if kind == "pruned":
        prune.l1_unstructured(network[1], "weight", 0.5)
    elif kind == "normalised":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            weight_norm(network[1])
    elif kind == "spectral":
        spectral_norm(network[1])
    else:  # the last activations, which the network keeps for whoever wants to see them
        network.seen = {"last": [network(torch.rand(2, 3, 8, 8))]}
    return network


@pytest.mark.parametrize("kind", ["pruned", "normalised", "spectral", "kept"])
def test_networks_that_cannot_be_copied_as_they_are_can_be_aligned_and_joined(kind):
    images = pictures(side=8, count=40)
    a, b = hooked(kind).state_dict(), hooked(kind).state_dict()
    before = {n: t.clone() for n, t in b.items()}
    found = align(hooked(kind), a, b, images, "correlation")
    assert found.permutation and found.certificate < 1e-9
    assert_same(b, before)
    path = curve(hooked(kind), a, found.state, images, "segment", epochs=0)
    assert path(0.5).keys() == a.keys()


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_curve_ends_where_it_should_and_learns_between(epochs):
    model, images = tiny.perceptron(side=16), pictures(count=20)
    a, b = randomised(model.network, 1), randomised(model.network, 2)
    path = curve(model.network, a, b, images, "bezier", epochs=epochs, batch_size=10)
    names = dict(model.network.named_parameters())
    for t, end in ((0.0, a), (1.0, b)):
        assert_close({n: path(t)[n] for n in names}, {n: end[n] for n in names})
    middle, straight = path(0.5), {n: (a[n] + b[n]) / 2 for n in names}
    if epochs:
        assert any(not torch.allclose(middle[n], straight[n]) for n in names)
    else:
        assert_close({n: middle[n] for n in names}, straight)
    assert middle.keys() == a.keys() and not torch.equal(middle["2.running_mean"], a["2.running_mean"])
