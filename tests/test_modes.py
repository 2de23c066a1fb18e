"""Networks that do something else in training: what is explained and aligned is the function of evaluation mode."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from awkward import Net, conv
from moody import MOODY, Auxiliary, Counted, FunctionalNormAct, NormAct, OwnNorm, between
from tiny import assert_same, pictures
from torch import Tensor, nn

from neuralign.api import align
from neuralign.datasets.images import as_float
from neuralign.symmetry.explain import explain, sentences
from neuralign.symmetry.tracing.trace import trace


def image(count: int = 2) -> Tensor:
    return as_float(pictures(side=8).pixels[:count])


def states(make: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    """A state of such a network, with running statistics that are not those of a fresh one."""
    torch.manual_seed(seed)
    found = {name: t.detach().clone() for name, t in make().state_dict().items()}
    for name, tensor in found.items():
        if name.endswith("running_mean"):
            tensor.normal_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return found


def outputs(network: nn.Module, state: dict[str, Tensor]) -> Tensor:
    network.load_state_dict(state)
    network.eval()
    with torch.no_grad():
        return network.double()(image(12).double())


def assert_aligned_alike(make: Callable[[], nn.Module], groups: set[str]) -> None:
    """Aligning leaves the given tensors and the network as they are, and B the same function."""
    a, b = states(make, 1), states(make, 2)
    network = make().train()
    given = [{n: t.clone() for n, t in state.items()} for state in (a, b, network.state_dict())]
    assert explain(network, image())["certified"]
    found = align(network, a, b, pictures(side=8, count=40), "correlation")
    for before, after in zip(given, (a, b, network.state_dict()), strict=True):
        assert_same(after, before)
    assert found.permutation.keys() == groups and found.certificate < 1e-9
    assert any((index != torch.arange(len(index))).any() for index in found.permutation.values())
    torch.testing.assert_close(outputs(make(), found.state), outputs(make(), b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("name", MOODY)
def test_layers_of_two_modes_are_aligned_as_in_evaluation(name: str, bias: bool) -> None:
    own = {"weights that are merged": ("one.layer", "two.layer")}
    own |= dict.fromkeys(("weights that are bounded", "weights that are bounded in place"), ("one", "two"))
    assert_aligned_alike(lambda: between(MOODY[name], bias=bias), {"a", "b", *own.get(name, ())})


@pytest.mark.parametrize("norm", [NormAct, FunctionalNormAct, OwnNorm])
def test_heads_of_training_move_along_behind_norms_that_own_layers(norm: Callable[[int], nn.Module]) -> None:
    assert_aligned_alike(lambda: Auxiliary(norm), {"a", "b", "auxiliary.0"})


def test_heads_of_training_move_along_where_the_network_itself_keeps_numbers() -> None:
    """Their own units stay in place, for activations are read in evaluation mode."""
    assert_aligned_alike(Counted, {"a", "b"})
    found = trace(Counted(), image())
    assert found.spec.axes["auxiliary.0.weight"][1] == (("a", 1),) and not found.unreached


class Detector(nn.Module):
    """Wants targets in training, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = conv(3, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        if self.training and targets is None:
            raise ValueError("targets are needed in training")
        return self.fc(self.a(x).relu().mean((2, 3)))


class Asserting(Detector):
    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        assert not self.training, "for inference only"
        return super().forward(x)


@pytest.mark.parametrize(
    "make, reason",
    [
        (Detector, "ValueError: targets are needed in training"),
        (Asserting, "AssertionError: for inference only"),
        (lambda: Net(lambda n, x: n.inner(x), inner=Detector()), "ValueError: targets are needed in training"),
    ],
)
def test_what_cannot_be_run_in_training_is_seen_in_evaluation_and_that_is_said(
    make: Callable[[], nn.Module], reason: str
) -> None:
    facts = explain(make(), image())
    assert list(facts["groups"].values()) == [6] and facts["certified"]
    assert facts["modes"] == {"evaluation": "", "training": reason}
    said = f"Nothing is known of training mode, in which the network cannot be run on an input alone: {reason}."
    assert said in list(sentences(facts))
    found = align(make(), states(make, 1), states(make, 2), pictures(side=8), "correlation")
    assert len(found.permutation) == 1 and found.certificate < 1e-9


class Pooled(nn.Module):
    """A norm of maps of one pixel: one image is too few for it in training."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.a, self.norm, self.fc = conv(3, 6), norm, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.a(x).mean((2, 3), keepdim=True)).flatten(1))


class BatchOnly(nn.Module):
    """A norm of one's own that keeps its statistics under other names."""

    def __init__(self, channels: int):
        super().__init__()
        self.act = nn.ReLU()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(nn.functional.batch_norm(x, self.mean, self.spread, training=self.training))


@pytest.mark.parametrize("make", [nn.BatchNorm2d, NormAct, BatchOnly])
def test_one_image_is_enough_where_evaluation_takes_one(make: Callable[[int], nn.Module]) -> None:
    facts = explain(Pooled(make(6)), image(1))
    assert facts["certified"] and facts["batch_sizes"] == [1, 2] and not facts["modes"]["training"]


def test_a_network_that_normalises_over_images_is_certified_without_a_single_one() -> None:
    facts = explain(Pooled(nn.BatchNorm2d(6, track_running_stats=False)), image(2))
    assert facts["certified"] and facts["groups"] == {"a": 6} and facts["batch_sizes"] == [2]


def test_random_numbers_of_python_and_numpy_are_drawn_alike_and_no_one_elses_change() -> None:
    def drop(n: nn.Module, x: Tensor) -> Tensor:
        scale = (random.random() + np.random.random()) if n.training else 1.0
        return n.fc(n.a(x).relu().mean((2, 3)) * scale)

    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    facts = explain(Net(drop, a=conv(3, 6), fc=nn.Linear(6, 5)), image())
    assert (random.random(), np.random.random()) == expected
    assert facts["certified"] and facts["groups"] == {"a": 6}


def test_what_the_modes_use_otherwise_is_tied() -> None:
    """In training a second layer is added to the first; what is free in evaluation alone must not be."""

    def do(n: nn.Module, x: Tensor) -> Tensor:
        y = n.a(x) + n.b(x) if n.training else torch.cat([n.a(x), n.b(x)], 1)[:, :6] + 0 * n.b(x).mean()
        return n.fc(y.relu().mean((2, 3)))

    found = trace(Net(do, a=conv(3, 6), b=conv(3, 6), fc=nn.Linear(6, 5)), image())
    assert found.spec.axes["a.weight"][0] == found.spec.axes["b.weight"][0] and found.spec.free == ("a",)


class FlipsInTraining(nn.Module):
    """A layer without children that reads the order of its channels, but in training mode only."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.kind == "counts its calls":
            self.count += 1
        return x.flip(1)


@pytest.mark.parametrize("kind", ["steady", "counts its calls"])
def test_what_a_layer_without_children_does_in_training_counts(kind: str) -> None:
    network = nn.Sequential(conv(3, 6), FlipsInTraining(kind), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    found = trace(network, image())
    assert found.modes == {"evaluation": "", "training": ""} and not found.spec.free
    assert found.frozen["0.weight[0]"] == "aten::flip in layer '1' depends on its order"


class Noise(nn.Module):
    """Gaussian noise in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


def test_noise_of_a_layer_without_children_fixes_nothing() -> None:
    network = nn.Sequential(conv(3, 6), Noise(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    facts = explain(network, image())
    assert facts["groups"] == {"0": 6} and facts["certified"] and facts["modes"]["training"] == ""


class WantsTargets(nn.Module):
    """A layer without children that cannot be run in training on its input alone."""

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        if self.training and targets is None:
            raise ValueError("targets are wanted in training")
        return x


def test_a_layer_that_refuses_training_leaves_the_others_in_training() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.targets(n.a(x).relu())
        return n.fc((x.flip(1) if n.training else x).mean((2, 3)))

    found = trace(Net(do, a=conv(3, 6), targets=WantsTargets(), fc=nn.Linear(6, 5)), image())
    assert found.modes == {"evaluation": "", "training": ""} and not found.spec.free
    assert found.frozen["a.weight[0]"] == "aten::flip depends on its order"
