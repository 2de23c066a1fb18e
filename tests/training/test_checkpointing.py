"""Networks under gradient checkpointing (torch.utils.checkpoint), whose layers run again in the backward pass."""

import pytest
import torch
from awkward import conv
from tiny import assert_same, pictures
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from neuralign.api import align
from neuralign.datasets.images import as_float
from neuralign.networks.model import substituted
from neuralign.symmetry.explain import explain, perturbed_state


def mean(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


class Saving(nn.Module):
    """Three layers, of which `how` names those under gradient checkpointing."""

    def __init__(self, how: str, reentrant: bool):
        super().__init__()
        self.first = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(conv(6, 7), nn.BatchNorm2d(7), nn.ReLU(), nn.Dropout())
        self.fc, self.how, self.reentrant = nn.Linear(7, 5), how, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "all":
            return checkpoint(self.plain, x, **self.options())
        if self.how == "nested":
            return checkpoint(lambda y: self.fc(mean(self.save(self.second, self.first(y)))), x, **self.options())
        if self.how == "in turn":
            return self.fc(checkpoint_sequential(self.second, 2, self.first(x), **self.options()).mean((2, 3)))
        if self.how == "in training" and not self.training:
            return self.plain(x)
        return self.fc(self.save(self.second, self.save(self.first, x)).mean((2, 3)))

    def options(self) -> dict[str, bool]:
        return {"use_reentrant": self.reentrant}

    def save(self, layer: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(layer, x, use_reentrant=self.reentrant)

    def plain(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)))


@pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad"
)  # PyTorch's word on a pass without gradients
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("how", ["each", "all", "nested", "in turn", "in training"])
def test_a_network_with_checkpointing_is_certified_and_aligned_like_one_without(how: str, reentrant: bool) -> None:
    torch.manual_seed(0)
    network, images = Saving(how, reentrant), pictures(side=8, count=40)
    facts = explain(network, as_float(images.pixels[:2]))
    assert facts["certified"] and facts["groups"] == {"first.0": 6, "second.0": 7} and facts["precision"] == "float64"
    a, b = perturbed_state(network, 1), perturbed_state(network, 2)
    aligned = align(network, a, b, images, "correlation")
    plain = align(Saving("in training", False), a, b, images, "correlation")
    assert aligned.certificate < 1e-9
    assert_same(aligned.permutation, plain.permutation)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_within_a_substitution_are_those_of_its_state(reentrant: bool) -> None:
    network, other = Saving("each", reentrant).double(), Saving("each", reentrant).double()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    state = {n: t.detach().clone() for n, t in other.state_dict().items()}
    weights = {n: state[n].requires_grad_() for n, _ in network.named_parameters()}
    x = as_float(pictures(side=8).pixels).double().requires_grad_()
    network.eval()
    with substituted(network, state):
        network(x).square().sum().backward()
    other.eval().plain(x).square().sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad)
    assert_same(network.state_dict(), before)


def test_a_buffer_that_a_network_assigns_anew_is_in_the_substituted_state() -> None:
    network = nn.Module()
    network.register_buffer("mean", torch.zeros(2))
    with substituted(network, {"mean": torch.ones(2)}) as held:
        network.mean = network.mean + 1
    assert torch.equal(held["mean"], torch.full((2,), 2.0)) and torch.equal(network.mean, torch.zeros(2))
