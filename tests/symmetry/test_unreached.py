"""Layers that no run reached: the groups that may feed them are fixed, and their tensors are named."""

from collections.abc import Callable

import pytest
import torch
from awkward import conv
from tiny import pictures
from torch import Tensor, nn
from torch.nn import functional as F

from neuralign.alignment import problem as alignment
from neuralign.api import align
from neuralign.datasets.images import as_float
from neuralign.symmetry import permutations
from neuralign.symmetry.explain import explain, perturbed_state, sentences
from neuralign.symmetry.tracing.trace import trace

Pool = Callable[[Tensor], Tensor]


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def as_is(x: Tensor) -> Tensor:
    return x


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 2).flatten(1)


class Tasks(nn.Module):
    """Convolutions with one head for each task, behind a pooling of its own; `task` selects the head."""

    def __init__(self, widths: list[int], *heads: tuple[Pool, nn.Module]):
        super().__init__()
        sizes = [3, *widths]
        self.body = nn.ModuleList(conv(n, m) for n, m in zip(sizes, widths, strict=False))
        self.pools, self.heads, self.task = [pool for pool, _ in heads], nn.ModuleList(head for _, head in heads), 0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = layer(x).relu()
        return self.heads[self.task](self.pools[self.task](x))


class Joined(Tasks):
    """The second head takes the concatenation of two layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body[0](x).relu()
        y = self.body[1](x).relu()
        return self.heads[self.task](torch.cat([x, y], 1).mean((2, 3)) if self.task else y.mean((2, 3)))


class Exits(nn.Module):
    """Early exits; `task` selects after how many layers it leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(3, 6), conv(6, 10), conv(10, 14)])
        self.exits, self.task = nn.ModuleList(nn.Linear(n, 5) for n in (14, 10, 6)), 0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[: 3 - self.task]:
            x = layer(x).relu()
        return self.exits[self.task](x.mean((2, 3)))


class Adapted(nn.Module):
    """A low-rank adapter that is added to the stream in the second task only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc, self.task = conv(3, 6), conv(6, 9), nn.Linear(9, 5), 0
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.task:
            x = x + F.conv2d(F.conv2d(x, self.down[..., None, None]), self.up[..., None, None])
        return self.fc(self.b(x).relu().mean((2, 3)))


class Domains(nn.Module):
    """A batch norm for each domain; `task` selects the domain."""

    def __init__(self, affine: bool):
        super().__init__()
        self.a, self.b, self.fc, self.task = conv(3, 6), conv(6, 9), nn.Linear(9, 5), 0
        self.norms = nn.ModuleList(nn.BatchNorm2d(6, affine=affine) for _ in range(2))
        for norm in self.norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.norms[self.task](self.a(x)).relu()).relu().mean((2, 3)))


def linear(inputs: int, outputs: int = 7) -> nn.Module:
    return nn.Linear(inputs, outputs)


def perceptron() -> nn.Module:
    return nn.Sequential(linear(10, 9), nn.ReLU(), linear(9))


def convolved() -> nn.Module:
    return nn.Sequential(conv(10, 7), nn.Flatten(), linear(448))


HEAD = "heads.1.weight"

# networks of two tasks, of which the first is traced; the free groups, and the first tensor not reached
TASKS: dict[str, tuple[Callable[[], nn.Module], set[str], str]] = {
    "heads": (lambda: Tasks([6, 10, 14], (mean, linear(14)), (mean, linear(14))), {"body.0", "body.1"}, HEAD),
    "all of one width": (lambda: Tasks([6, 6], (mean, linear(6)), (mean, linear(6))), set(), HEAD),
    "flattened": (lambda: Tasks([6, 10], (flat, linear(640)), (flat, linear(640))), {"body.0"}, HEAD),
    "flattened otherwise": (lambda: Tasks([6, 10], (mean, linear(10)), (pooled, linear(40))), {"body.0"}, HEAD),
    "perceptron": (lambda: Tasks([6, 10], (mean, linear(10)), (mean, perceptron())), {"body.0"}, "heads.1.0.weight"),
    "convolution": (lambda: Tasks([6, 10], (mean, linear(10)), (as_is, convolved())), {"body.0"}, "heads.1.0.weight"),
    "end to end": (lambda: Joined([6, 10], (mean, linear(10)), (mean, linear(16))), set(), HEAD),
    "exits": (Exits, {"layers.2"}, "exits.1.weight"),
    "adapter": (Adapted, {"b"}, "down"),
    "norms": (lambda: Domains(True), {"b"}, "norms.1.weight"),
    "norms without weights": (lambda: Domains(False), {"b"}, "norms.1.running_mean"),
}


def image() -> Tensor:
    return as_float(pictures(side=8).pixels[:2])


@pytest.mark.parametrize("name", TASKS)
def test_a_permutation_traced_for_one_task_changes_neither(name: str) -> None:
    make, free, first = TASKS[name]
    torch.manual_seed(0)
    network = make().double().eval()
    symmetry = trace(network, image().double())
    assert set(symmetry.spec.free) == free and symmetry.unreached[0] == first
    state = {n: t.clone() for n, t in network.state_dict().items()}
    for seed in range(5):
        permutation = permutations.random(symmetry.spec, torch.Generator().manual_seed(seed))
        for network.task in (0, 1):
            network.load_state_dict(state)
            before = network(image().double())
            network.load_state_dict(permutations.permute(symmetry.spec, permutation, state))
            torch.testing.assert_close(network(image().double()), before, rtol=1e-9, atol=1e-9)


class Idle(nn.Module):
    """Has a layer that it never uses, with as many inputs as the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc, self.idle = conv(3, 6), conv(6, 10), nn.Linear(10, 5), nn.Linear(10, 7)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x).relu()).relu().mean((2, 3)))


def test_a_layer_that_is_never_used_leaves_the_others_free_and_is_named() -> None:
    facts = explain(Idle(), image())
    assert facts["groups"] == {"a": 6} and facts["certified"]
    assert facts["unreached"] == ["scale", "idle.weight", "idle.bias"]
    reason = "it may belong to idle.weight, which no run reached"
    assert {"axis": "b.weight[0]", "reason": reason} in facts["frozen"]
    line = "No run used scale, idle.weight, idle.bias: what may feed them is fixed, and nothing is certified of them."
    assert line in list(sentences(facts))


def test_an_alignment_and_its_certificate_say_what_was_reached() -> None:
    network, images = Idle(), pictures(side=8, count=40)
    a, b = perturbed_state(network, 1), perturbed_state(network, 2)
    aligned = align(network, a, b, images, "correlation")
    assert aligned.unreached == ("scale", "idle.weight", "idle.bias")
    model = alignment.Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    problem = alignment.Problem(model, trace(network, image()), a, b, images)
    proof = alignment.certificate(problem, aligned.permutation)
    assert proof.facts() == {
        "certificate": aligned.certificate,
        "certificate_precision": "float64",
        "certificate_batch_sizes": [32, 1, 3],
        "certificate_modes": ["evaluation", "training"],
        "reached": 6,
        "unreached": ["scale", "idle.weight", "idle.bias"],
    }


def test_a_network_whose_tensors_are_all_reached_names_none() -> None:
    network = Idle()
    del network.idle, network.scale
    facts = explain(network, image())
    assert facts["groups"] == {"a": 6, "b": 10} and not facts["unreached"]
    assert "No run used" not in "\n".join(sentences(facts))
