"""`import neuralign as na` with loaders, losses and inputs of any kind."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import assert_close, generator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neuralign as na
from neuralign import api
from neuralign.alignment.activations import LAYOUT_DEPENDENT
from neuralign.common.errors import UserError
from neuralign.common.files import PACKAGE
from neuralign.symmetry.permutations import random

State = dict[str, Tensor]


def regressor(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))


def table(count: int = 60) -> tuple[Tensor, Tensor]:
    """Features (n, 6) and a noisy function of them (n, 1)."""
    x = torch.randn(count, 6, generator=generator(1))
    return x, (x[:, :1] * x[:, 1:2]).sin() + 0.1 * torch.randn(count, 1, generator=generator(2))


def loader(*, shuffle: bool = False, size: int = 25) -> DataLoader:
    return DataLoader(TensorDataset(*table()), batch_size=size, shuffle=shuffle)


class Tokens(nn.Module):
    """A small language model that takes keyword arguments and returns a mapping."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(11, width), nn.Linear(width, 12), nn.Linear(12, 11)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.hidden(self.embedding(input_ids)).relu())}


def planted(network: nn.Module, inputs: Any) -> tuple[State, State, dict[str, Tensor]]:
    """A state, the state with its units permuted, and the permutation that puts them back."""
    symmetry, state = na.trace(network, inputs), {n: t.clone() for n, t in network.state_dict().items()}
    there = random(symmetry.spec, generator(3))
    return state, na.permute(symmetry, there, state), {g: torch.argsort(p) for g, p in there.items()}


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, neuralign; neuralign.__version__; assert 'torch' not in sys.modules; neuralign.align"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' in sys.modules"], check=True)
    with pytest.raises(AttributeError, match="module 'neuralign' has no attribute 'allign'"):
        _ = na.allign  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "batches",
    [loader(), list(loader()), [table()[0]], table()[0], [list(table())]],
    ids=["DataLoader", "list", "inputs alone", "tensor", "lists"],
)
@pytest.mark.parametrize("method", ["correlation", "transport"])
def test_align_takes_loaders_lists_and_tensors_with_and_without_targets(batches: Any, method: str) -> None:
    network = regressor()
    a, b, back = planted(network, table()[0][:2])
    aligned = na.align(network, a, b, batches, method)
    assert_close(aligned.state, a)
    assert {g: p.tolist() for g, p in aligned.permutation.items()} == {g: p.tolist() for g, p in back.items()}
    assert aligned.certificate < 1e-9


def test_the_size_of_a_loaders_batches_does_not_matter() -> None:
    a, b = regressor(1).state_dict(), regressor(2).state_dict()
    permutations = [na.align(regressor(), a, b, loader(size=size)).permutation for size in (7, 25, 60)]
    for other in permutations[1:]:
        assert all(torch.equal(other[g], p) for g, p in permutations[0].items())


@pytest.mark.parametrize(
    "loss", ["squared_error", nn.functional.mse_loss, lambda outputs, y: (outputs - y).abs().mean()]
)
def test_a_regression_is_connected_and_evaluated(loss: Any) -> None:
    network, data = regressor(), loader(shuffle=True)
    ends = []
    for seed in (1, 2):
        net = regressor(seed)
        sgd = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(60):
            for x, y in data:
                sgd.zero_grad()
                nn.functional.mse_loss(net(x), y).backward()
                sgd.step()
        ends.append(net.state_dict())
    line = na.connect(network, *ends, data, "segment", loss=loss, epochs=0)
    curve = na.connect(network, *ends, data, loss=loss, epochs=40, lr=0.01, weight_decay=0)
    losses = [na.evaluate(network, path(0.5), data, loss=loss)["loss"] for path in (line, curve)]
    assert losses[1] < losses[0]
    assert_close(curve(0.0), ends[0])
    assert na.evaluate(network, curve(0.0), data, loss=loss)["loss"] < losses[0]


def test_metrics_of_a_regression_are_those_of_numpy() -> None:
    x, y = table()
    network = regressor()
    metrics = {
        "largest": lambda outputs, targets: (outputs - targets).abs().flatten(),
        "batch_mean": lambda outputs, targets: targets.mean(),
    }
    values = na.evaluate(network, network.state_dict(), loader(), loss="squared_error", metrics=metrics)
    with torch.no_grad():
        errors = (network(x) - y).double()
    assert list(values) == ["loss", "largest", "batch_mean", "r2"]
    assert values["loss"] == pytest.approx(errors.square().mean().item(), rel=1e-6)
    assert values["largest"] == pytest.approx(errors.abs().mean().item(), rel=1e-6)
    assert values["batch_mean"] == pytest.approx(y.mean().item(), rel=1e-5)
    explained = 1 - errors.square().mean() / y.double().var(correction=0)
    assert values["r2"] == pytest.approx(100 * explained.item(), rel=1e-5)


# what is refused


def one_shot() -> Iterator[Any]:
    yield from loader()


class Changing:
    """Yields fewer and fewer batches."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(list(loader(size=10))[: 7 - self.passes])


class Failing:
    """Fails at its second batch."""

    def __iter__(self) -> Iterator[Any]:
        yield table()
        raise OSError("disk gone")


NAN = torch.full((4, 6), torch.nan)
BAD: list[tuple[Callable[[], Any], str]] = [
    (one_shot, "batches: found a generator, which can be read only once; something that can be iterated again"),
    (lambda: 3, "batches: found a int; an iterable of batches is needed, each inputs or a pair (inputs, targets)"),
    (lambda: {"x": table()[0]}, "batches: found a dict; an iterable of batches is needed"),
    (lambda: [], "batches: found none; at least one is needed"),
    (Failing, "batches: batch 2: the loader raises OSError: disk gone"),
    (lambda: [table(), (NAN, table(4)[1])], "batches: batch 2: inputs have numbers that are not finite"),
    (lambda: [(*table(), 1)], "batches: batch 1 has 3 parts; inputs, or a pair (inputs, targets), are needed"),
    (lambda: [("text", None)], "batches: batch 1: inputs: found no tensor; the first dimension of every tensor"),
    (lambda: [table(), (torch.rand(5, 4), None)], "batches: on batch 2 RuntimeError"),
    (lambda: [torch.rand(5, 4)], "the network does not take an input of shape (2, 4): RuntimeError"),
]


@pytest.mark.parametrize("make, message", BAD, ids=[message for _, message in BAD])
def test_batches_that_cannot_be_used_are_refused_with_their_number(make: Callable[[], Any], message: str) -> None:
    a, b = regressor(1).state_dict(), regressor(2).state_dict()
    with pytest.raises(UserError) as error:
        na.align(regressor(), a, b, make())
    assert str(error.value).startswith(message), str(error.value)


def test_a_loader_that_yields_less_in_a_later_pass_is_refused() -> None:
    a, b = regressor(1).state_dict(), regressor(2).state_dict()
    with pytest.raises(UserError, match=r"a pass ended after \d batches, where the first one had \d"):
        na.connect(regressor(), a, b, Changing(), loss="squared_error", epochs=3)


LOSSES: list[tuple[Any, str]] = [
    (lambda o, y: (o - y).square(), "loss: found a tensor of shape (8, 1); a floating-point scalar tensor is needed"),
    (lambda o, y: 1.0, "loss: found a float; a floating-point scalar tensor is needed"),
    (lambda o, y: o.no_such_thing, "loss: on the first batch it raises AttributeError: 'Tensor' object has no"),
    ("cross_entropi", "loss: found 'cross_entropi'; did you mean 'cross_entropy'?"),
    (3, "loss: found 3; a function (outputs, targets) -> scalar, or a name, is needed"),
]


@pytest.mark.parametrize("loss, message", LOSSES, ids=[message for _, message in LOSSES])
def test_a_loss_that_cannot_be_used_is_refused(loss: Any, message: str) -> None:
    network = regressor()
    for call in (
        lambda: na.connect(network, network.state_dict(), network.state_dict(), loader(), loss=loss),
        lambda: na.evaluate(network, network.state_dict(), loader(), loss=loss),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value).startswith(message), str(error.value)


def test_a_metric_of_another_shape_is_refused() -> None:
    network = regressor()
    with pytest.raises(UserError, match=r"wide: found a tensor of shape \(25, 6\) for 25 examples; a scalar, or one"):
        metrics = {"wide": lambda outputs, targets: torch.ones(len(outputs), 6)}
        na.evaluate(network, network.state_dict(), loader(), loss="squared_error", metrics=metrics)


def test_states_in_place_of_networks_are_refused() -> None:
    network = regressor()
    message = "networks: found OrderedDict; a torch.nn.Module with its weights is needed"
    pair, example = (network, network.state_dict()), torch.rand(2, 6)
    with pytest.raises(UserError, match=message):
        na.merge(*pair, example=example)
    with pytest.raises(UserError, match=message):
        na.compare(*pair, example)


def test_options_that_need_images_are_refused_for_other_examples() -> None:
    network = regressor()
    states = network.state_dict(), network.state_dict()
    with pytest.raises(UserError, match="mean, std: only images are normalised; normalise other inputs in the loader"):
        na.align(network, *states, loader(), mean=[0.5])
    with pytest.raises(UserError, match="balanced: found true; only labelled images have classes"):
        na.align(network, *states, loader(), balanced=True)
    with pytest.raises(UserError, match="a loader is read in its own order"):
        na.align(network, *states, loader(), stop=0.1)


# inputs as keyword arguments, outputs as mappings


def sentences(count: int = 40) -> list[Any]:
    """Batches of keyword arguments, sequences of several lengths, and the tokens that follow."""
    batches = []
    for length in (5, 7, 6):
        tokens = torch.randint(11, (count, length + 1), generator=generator(length))
        batches.append(({"input_ids": tokens[:, :-1]}, tokens[:, 1:]))
    return batches


def test_a_language_model_with_keyword_arguments_is_aligned_connected_and_evaluated() -> None:
    torch.manual_seed(0)
    network, data = Tokens(), sentences()
    a, b, _ = planted(network, data[0][0])
    aligned = na.align(network, a, b, data)
    assert_close(aligned.state, a)
    torch.manual_seed(1)
    other = Tokens().state_dict()
    path = na.connect(network, a, other, data, loss="next_token", epochs=3, lr=0.1)
    values = na.evaluate(network, path(0.5), data, loss="next_token")
    assert list(values) == ["loss", "accuracy", "perplexity"]
    assert values["perplexity"] == pytest.approx(torch.tensor(values["loss"]).exp().item(), rel=1e-5)
    line = na.connect(network, a, other, data, loss="next_token", curve="segment", epochs=0)
    assert values["loss"] < na.evaluate(network, line(0.5), data, loss="next_token")["loss"]


def test_a_network_that_computes_its_own_loss() -> None:
    class WithLoss(Tokens):
        def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            outputs = super().forward(input_ids)
            return {"loss": nn.functional.cross_entropy(outputs["logits"].transpose(1, 2), labels), **outputs}

    torch.manual_seed(0)
    network = WithLoss()
    data = [inputs | {"labels": targets} for inputs, targets in sentences()]
    own: Callable[[Any, Any], Tensor] = lambda outputs, _: outputs["loss"]  # noqa: E731
    measured = na.evaluate(network, network.state_dict(), data, loss=own)["loss"]
    plain = na.evaluate(network, network.state_dict(), sentences_with_labels(data), loss=own)["loss"]
    assert measured == pytest.approx(plain)
    path = na.connect(network, network.state_dict(), WithLoss().state_dict(), data, loss=own, epochs=1)
    assert all(torch.isfinite(t).all() for t in path(0.5).values())


def sentences_with_labels(data: list[Any]) -> list[Any]:
    """The same batches as tuples of positional arguments."""
    return [((batch["input_ids"], batch["labels"]), None) for batch in data]


def test_the_names_of_the_package_are_those_of_its_stub_and_each_is_described() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    names = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(api.__all__)
    assert all(getattr(na, name) is getattr(api, name) and getattr(api, name).__doc__ for name in names)


def test_one_example_is_evaluated_and_torchs_generator_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    x, y = table(1)
    before = torch.get_rng_state()
    values = na.evaluate(network, network.state_dict(), [(x, y)], loss="squared_error")
    with torch.no_grad():
        assert values["loss"] == pytest.approx((network.eval()(x) - y).square().item(), rel=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


# unusual networks


class Counting(nn.Module):
    """Counts its calls and averages what it sees in buffers, in evaluation mode too; returns a dataclass."""

    @dataclass
    class Outputs:
        logits: Tensor
        kind: str

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(16))

    def forward(self, x: Tensor, shift: bool | None = None) -> "Counting.Outputs":
        hidden = self.hidden(x).relu()
        with torch.no_grad():
            self.calls += 1
            self.average.mul_(0.9).add_(0.1 * hidden.mean(0))
        return self.Outputs(self.head(hidden - self.average if shift else hidden), "counting")


def test_a_network_that_changes_its_buffers_in_evaluation_gives_the_same_numbers_each_time() -> None:
    torch.manual_seed(0)
    network = Counting()
    data = [({"x": x, "shift": True}, torch.arange(len(x)) % 2) for x, _ in loader()]
    a, b, back = planted(network, data[0][0])
    aligned = na.align(network, a, b, data)
    assert_close(aligned.state, a)
    assert {g: p.tolist() for g, p in aligned.permutation.items()} == {g: p.tolist() for g, p in back.items()}
    first, second = (na.evaluate(network, a, data) for _ in range(2))
    assert first == second
    assert_close(network.state_dict(), a)


class Subsampled(nn.Module):
    """Pixels become the rows of a matrix; of what a linear layer makes of them, every second row and column is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8, bias=False)
        self.second, self.head = nn.Linear(8, 12, bias=False), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(self.stem(x).relu().flatten(2).transpose(1, 2))
        return self.head(self.second(rows.view(len(x), 6, 6, 8)[:, ::2, ::2].reshape(len(x), 9, 8)).mean(1))


def test_activations_are_those_of_the_trace_however_the_weights_lie_in_memory() -> None:
    """How many views and products there are depends on the order of a feature map's numbers; one of them is a tap."""
    torch.manual_seed(0)
    network = Subsampled()
    batches = [torch.randn(30, 3, 6, 6, generator=generator(seed)) for seed in range(2)]
    a, b, back = planted(network, batches[0])
    assert LAYOUT_DEPENDENT & {read.operation for read in na.trace(network, batches[0]).reads.values()}
    aligned = na.align(network, a, b, batches)
    assert {g: p.tolist() for g, p in aligned.permutation.items()} == {g: p.tolist() for g, p in back.items()}


def test_tied_weights_that_differ_are_refused_and_one_of_two_names_is_enough() -> None:
    torch.manual_seed(0)
    network = Tokens(12)
    network.head.weight = network.embedding.weight
    state, data = network.state_dict(), sentences()
    name = next(
        n for n, t in state.items() if n == "head.weight" and t.data_ptr() == state["embedding.weight"].data_ptr()
    )
    aligned = na.align(network, state, {n: t for n, t in state.items() if n != name}, data)
    assert aligned.certificate < 1e-9
    with pytest.raises(
        UserError, match=r"source: embedding.weight, head.weight are one tensor in the network, but dif"
    ):
        na.align(network, state, state | {name: state[name] + 1}, data)


class Quantised(nn.Module):
    """Its first weight has 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 6).to(torch.float8_e4m3fn), requires_grad=False)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.weight.to(x.dtype).T).relu())


def test_quantised_parameters_are_refused() -> None:
    network = Quantised()
    with pytest.raises(
        UserError, match=r"target: weight is quantised \(torch.float8_e4m3fn\); a dense tensor of float16"
    ):
        na.align(network, network.state_dict(), network.state_dict(), loader())
