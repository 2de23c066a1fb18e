"""Folded networks are the same functions, and in-place ReLUs overwrite nothing that is read later."""

import pytest
import torch
from tiny import pictures, randomised
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model
from neuralign.symmetry.folding import Uncapturable, capture, fold, use_inplace_relus
from neuralign.symmetry.tracing.execution import DeterministicNetwork, evaluation_copy


def folded(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, fx.GraphModule]:
    """Outputs with a random state before and after folding, with in-place ReLUs, and the folded graph."""
    graph = capture(network.double())
    state = randomised(network, 1)
    result = fold(graph)
    use_inplace_relus(result.graph)
    with torch.no_grad():
        heads = DeterministicNetwork(evaluation_copy(network), frozenset([""]))(x, state)  # with all of them
        return heads, functional_call(result.graph, result.state(state), (x,)), result.graph


def targets(graph: fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes]


def test_folding_keeps_the_function_of_every_network(convolutional: Model, images: Images) -> None:
    x = convolutional.normalise(as_float(images.pixels).double())
    before, after, graph = folded(convolutional.network, x)
    torch.testing.assert_close(after, before)
    assert not [m for m in graph.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.relu_ in targets(graph)


def block(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, eps=0.1),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
    ],
    ids=str,
)
def test_folding_keeps_the_function_whatever_the_batch_norm(norm: nn.Module) -> None:
    before, after, _ = folded(block(norm, nn.ReLU()), as_float(pictures().pixels).double())
    torch.testing.assert_close(after, before)


def test_a_batch_norm_over_another_axis_than_that_of_the_units_is_not_folded() -> None:
    over_tokens = nn.Sequential(nn.Flatten(2), nn.Linear(64, 4), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(12, 5))
    before, after, graph = folded(over_tokens, as_float(pictures(side=8).pixels).double())
    torch.testing.assert_close(after, before)
    assert [m for m in graph.modules() if isinstance(m, nn.BatchNorm1d)]


class Shared(nn.Module):
    """The input of each ReLU is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.norm(y) + y  # the norm cannot be folded: its input is read twice
        w = F.relu(z) + z
        return F.relu(self.b(w) + F.relu(F.relu(w))).mean((2, 3))


def test_activations_that_are_read_twice_are_neither_folded_nor_overwritten() -> None:
    before, after, graph = folded(Shared(), as_float(pictures().pixels).double())
    torch.testing.assert_close(after, before)
    assert [m for m in graph.modules() if isinstance(m, nn.BatchNorm2d)]
    assert targets(graph).count(torch.relu_) == 1  # the last one


def test_the_input_is_not_overwritten() -> None:
    x = as_float(pictures().pixels).double() - 0.5
    kept = x.clone()
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before, after, _ = folded(nn.Sequential(network, nn.Linear(4, 5)), x)
    torch.testing.assert_close(after, before)
    assert torch.equal(x, kept)


class Branching(nn.Sequential):
    """Runs its layers only for bright inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() > 0 else x


@pytest.mark.parametrize(
    "network, words",
    [
        (Branching(nn.Linear(4, 4)), "a network whose graph depends on its input"),
        (nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2), "layer '0', whose weights are shared or computed: Conv2d"),
        (nn.Sequential(spectral_norm(nn.Linear(4, 4))), "layer '0', whose weights are shared or computed"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_networks_that_fx_cannot_represent_are_not_captured(network: nn.Module, words: str) -> None:
    with pytest.raises(Uncapturable, match=words):
        capture(network)
