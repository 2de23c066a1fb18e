"""What tracing and certificates of large networks rely on: parameters that are shared, not copied; the meta device."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.symmetry.explain import perturbed_state
from neuralign.symmetry.folding import capture
from neuralign.symmetry.tracing import modes
from neuralign.symmetry.tracing.execution import evaluation_copy
from neuralign.symmetry.tracing.trace import trace

X = torch.ones(2, 3)


class Net(nn.Module):
    """Two layers; `touch` is called with the first weight whenever the network runs."""

    def __init__(self, touch: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.touch = touch
        self.weight, self.head = nn.Parameter(torch.randn(4, 3)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.touch(self.weight)
        return self.head((x @ self.weight.T).relu())


def write_by_numpy(weight: Tensor) -> None:
    weight.numpy()[0] = 7.0


def write_and_fail(weight: Tensor) -> None:
    weight.zero_()
    raise RuntimeError("after writing")


WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda weight: weight.mul_(2),
    "data": lambda weight: weight.data.add_(1),
    "part": lambda weight: weight[1:].zero_(),
    "numpy": write_by_numpy,
}


def test_a_run_reads_the_parameters_of_the_network_itself() -> None:
    seen: list[Tensor] = []
    network = Net(seen.append)
    trace(network, X)
    assert seen and all(weight.data_ptr() == network.weight.data_ptr() for weight in seen)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_parameters_that_a_run_overwrites_get_their_values_back(write: Callable[[Tensor], object]) -> None:
    network = Net(write)
    before = network.weight.detach().clone()
    run = modes.run(network, X, frozenset([""]))
    assert torch.equal(network.weight, before)
    assert run.varying == {""}
    trace(network, X)
    assert torch.equal(network.weight, before)


def test_parameters_get_their_values_back_after_an_error() -> None:
    network = Net(write_and_fail)
    before = network.weight.detach().clone()
    with pytest.raises(RuntimeError, match="after writing"):
        trace(network, X)
    assert torch.equal(network.weight, before)


class Counting(nn.Linear):
    """Overrides `train`, and changes no weight in it."""

    def train(self, mode: bool = True) -> "Counting":
        self.calls = getattr(self, "calls", 0) + 1
        return super().train(mode)


class Merging(nn.Linear):
    """Adds an adapter to its weight in evaluation mode, as networks with low-rank adapters do."""

    def train(self, mode: bool = True) -> "Merging":
        if mode != self.training:
            self.weight.data += -1.0 if mode else 1.0
        return super().train(mode)


def test_a_copy_shares_parameters_unless_the_network_changes_them_with_its_mode() -> None:
    counting, merging = nn.Sequential(Counting(3, 2)), nn.Sequential(Merging(3, 2)).eval()
    assert evaluation_copy(counting)[0].weight.data_ptr() == counting[0].weight.data_ptr()
    before = merging[0].weight.detach().clone()
    twin = evaluation_copy(merging)
    assert twin[0].weight.data_ptr() != merging[0].weight.data_ptr() and torch.equal(twin[0].weight, before)
    capture(merging)  # sets the mode of its copy
    assert torch.equal(merging[0].weight, before)


class Average(nn.Module):
    """A norm that keeps an average in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average.mul_(0.9).add_(0.1 * x.mean((0, 1)))
        return x - self.average


class Attending(nn.Module):
    """An attention, a custom norm and a gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 6), Average()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.gate, self.head = nn.Linear(6, 10), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(nn.functional.glu(self.gate(x)))


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


@pytest.mark.parametrize("make, example", [(Attending, torch.ones(2, 5, 3)), (convolutions, torch.ones(2, 3, 6, 6))])
@pytest.mark.parametrize("attention", [False, True])
def test_a_network_without_weights_has_the_symmetry_of_one_with(
    make: Callable[[], nn.Module], example: Tensor, attention: bool
) -> None:
    with torch.device("meta"):
        without_weights = make()
    expected, actual = trace(make(), example, attention=attention), trace(without_weights, example, attention=attention)
    assert {g: actual.spec.sizes[g] for g in actual.spec.free} == {
        g: expected.spec.sizes[g] for g in expected.spec.free
    }
    assert actual.modes == expected.modes == {"evaluation": "", "training": ""}
    if not attention:
        assert actual.spec == expected.spec and actual.frozen == expected.frozen


def test_parameters_on_the_meta_device_with_buffers_elsewhere() -> None:
    network = convolutions()
    for module in network.modules():
        module._parameters = {n: nn.Parameter(p.to("meta")) for n, p in module._parameters.items() if p is not None}
    assert trace(network, torch.ones(2, 3, 6, 6)).spec == trace(convolutions(), torch.ones(2, 3, 6, 6)).spec
    assert network[1].running_mean.device.type == "cpu"


def test_a_network_that_reads_numbers_is_refused_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = Net(lambda weight: weight.sum().item())
    with pytest.raises(
        UserError, match="is on the meta device, which keeps no numbers, and cannot be traced there: .*meta"
    ):
        trace(network, X)


def test_the_noise_of_a_certificate_is_another_in_every_row_and_column() -> None:
    network = nn.Linear(700, 600)
    with torch.no_grad():
        network.weight.zero_()
    weight = perturbed_state(network, 0)["weight"]  # longer than the noise, which is repeated
    assert len(weight.unique(dim=0)) == 600 and len(weight.unique(dim=1)[0]) == 700
    assert weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(perturbed_state(network, 1)["weight"], weight)
