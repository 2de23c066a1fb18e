"""Networks that do something else in training mode: the function of evaluation mode is explained and aligned."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from awkward import Net, conv
from mode_dependent import MODE_DEPENDENT, Auxiliary, Counted, FunctionalNormAct, NormAct, OwnNorm, between
from tiny import assert_same, pictures
from torch import Tensor, nn

from neuralign.api import align
from neuralign.datasets.images import as_float
from neuralign.symmetry.explain import explain, sentences
from neuralign.symmetry.tracing.trace import trace


def image(count: int = 2) -> Tensor:
    return as_float(pictures(side=8).pixels[:count])


def states(make: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    """A state of such a network with random running statistics."""
    torch.manual_seed(seed)
    state = {name: t.detach().clone() for name, t in make().state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return state


def outputs(network: nn.Module, state: dict[str, Tensor]) -> Tensor:
    network.load_state_dict(state)
    network.eval()
    with torch.no_grad():
        return network.double()(image(12).double())


def assert_aligned_alike(make: Callable[[], nn.Module], groups: set[str]) -> None:
    """Aligning changes neither its arguments nor the function of b."""
    a, b = states(make, 1), states(make, 2)
    network = make().train()
    arguments = [{n: t.clone() for n, t in state.items()} for state in (a, b, network.state_dict())]
    assert explain(network, image())["certified"]
    aligned = align(network, a, b, pictures(side=8, count=40), "correlation")
    for before, after in zip(arguments, (a, b, network.state_dict()), strict=True):
        assert_same(after, before)
    assert aligned.permutation.keys() == groups and aligned.certificate < 1e-9
    assert any((index != torch.arange(len(index))).any() for index in aligned.permutation.values())
    torch.testing.assert_close(outputs(make(), aligned.state), outputs(make(), b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("name", MODE_DEPENDENT)
def test_mode_dependent_layers_are_aligned_in_evaluation_mode(name: str, bias: bool) -> None:
    further = {"weights that are merged": ("one.layer", "two.layer")}
    further |= dict.fromkeys(("weights that are bounded", "weights that are bounded in place"), ("one", "two"))
    assert_aligned_alike(lambda: between(MODE_DEPENDENT[name], bias=bias), {"a", "b", *further.get(name, ())})


@pytest.mark.parametrize("norm", [NormAct, FunctionalNormAct, OwnNorm])
def test_heads_of_training_mode_are_permuted_behind_norms_that_own_layers(norm: Callable[[int], nn.Module]) -> None:
    assert_aligned_alike(lambda: Auxiliary(norm), {"a", "b", "auxiliary.0"})


def test_heads_of_training_mode_are_permuted_in_a_network_that_updates_buffers() -> None:
    """The units of such heads are fixed, because activations are read in evaluation mode."""
    assert_aligned_alike(Counted, {"a", "b"})
    symmetry = trace(Counted(), image())
    assert symmetry.spec.axes["auxiliary.0.weight"][1] == (("a", 1),) and not symmetry.unreached


class Detector(nn.Module):
    """Requires targets in training mode, as detectors do."""

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
def test_a_network_that_cannot_run_in_training_mode_is_traced_in_evaluation_mode_and_says_so(
    make: Callable[[], nn.Module], reason: str
) -> None:
    facts = explain(make(), image())
    assert list(facts["groups"].values()) == [6] and facts["certified"]
    assert facts["modes"] == {"evaluation": "", "training": reason}
    line = f"Nothing is known of training mode, in which the network cannot be run on an input alone: {reason}."
    assert line in list(sentences(facts))
    aligned = align(make(), states(make, 1), states(make, 2), pictures(side=8), "correlation")
    assert len(aligned.permutation) == 1 and aligned.certificate < 1e-9


class Pooled(nn.Module):
    """A norm of maps of one pixel, for which training mode needs more than one image."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.a, self.norm, self.fc = conv(3, 6), norm, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.a(x).mean((2, 3), keepdim=True)).flatten(1))


class BatchOnly(nn.Module):
    """A hand-written norm with unusual names of its running statistics."""

    def __init__(self, channels: int):
        super().__init__()
        self.act = nn.ReLU()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(nn.functional.batch_norm(x, self.mean, self.spread, training=self.training))


@pytest.mark.parametrize("make", [nn.BatchNorm2d, NormAct, BatchOnly])
def test_one_image_is_enough_where_evaluation_mode_accepts_one(make: Callable[[int], nn.Module]) -> None:
    facts = explain(Pooled(make(6)), image(1))
    assert facts["certified"] and facts["batch_sizes"] == [1, 2] and not facts["modes"]["training"]


def test_a_network_that_normalises_over_images_is_certified_without_single_images() -> None:
    facts = explain(Pooled(nn.BatchNorm2d(6, track_running_stats=False)), image(2))
    assert facts["certified"] and facts["groups"] == {"a": 6} and facts["batch_sizes"] == [2]


def test_draws_of_python_and_numpy_repeat_and_leave_the_global_generators_alone() -> None:
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


def test_layers_that_are_added_in_training_mode_only_are_one_group() -> None:
    """What is free in evaluation mode alone must not be."""

    def do(n: nn.Module, x: Tensor) -> Tensor:
        y = n.a(x) + n.b(x) if n.training else torch.cat([n.a(x), n.b(x)], 1)[:, :6] + 0 * n.b(x).mean()
        return n.fc(y.relu().mean((2, 3)))

    symmetry = trace(Net(do, a=conv(3, 6), b=conv(3, 6), fc=nn.Linear(6, 5)), image())
    assert symmetry.spec.axes["a.weight"][0] == symmetry.spec.axes["b.weight"][0] and symmetry.spec.free == ("a",)


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
def test_a_layer_without_children_that_flips_channels_in_training_mode_fixes_them(kind: str) -> None:
    network = nn.Sequential(conv(3, 6), FlipsInTraining(kind), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    symmetry = trace(network, image())
    assert symmetry.modes == {"evaluation": "", "training": ""} and not symmetry.spec.free
    assert symmetry.frozen["0.weight[0]"] == "aten::flip in layer '1' depends on its order"


class Noise(nn.Module):
    """Gaussian noise in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


def test_noise_of_a_layer_without_children_fixes_nothing() -> None:
    network = nn.Sequential(conv(3, 6), Noise(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    facts = explain(network, image())
    assert facts["groups"] == {"0": 6} and facts["certified"] and facts["modes"]["training"] == ""


class NeedsTargets(nn.Module):
    """A layer without children that cannot be run in training mode on its input alone."""

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        if self.training and targets is None:
            raise ValueError("targets are needed in training")
        return x


def test_a_layer_that_cannot_run_in_training_mode_leaves_the_others_in_it() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.targets(n.a(x).relu())
        return n.fc((x.flip(1) if n.training else x).mean((2, 3)))

    symmetry = trace(Net(do, a=conv(3, 6), targets=NeedsTargets(), fc=nn.Linear(6, 5)), image())
    assert symmetry.modes == {"evaluation": "", "training": ""} and not symmetry.spec.free
    assert symmetry.frozen["a.weight[0]"] == "aten::flip depends on its order"
